//! Audits by hand over a network in memory: honest nodes pass, and every way of not holding is told from the others.

use std::fs;

use super::{World, noise, within};
use crate::network::memory::Manner;
use crate::{AuditOptions, AuditReport, AuditedNode, check_transcript};

async fn world() -> (World, String) {
    let world = World::new(6);
    for number in 0..20 {
        world.write(&format!("file-{number}"), &noise(number, 40_000));
    }
    let link = world.put("3/6").await.link;
    (world, link)
}

async fn audit(world: &World, link: &str) -> AuditReport {
    let options = AuditOptions { samples: Some(16), transcripts: Some(world.folder.path().join("transcripts")) };
    within(world.client().audit(link, &options)).await.unwrap()
}

fn misbehave(world: &World, number: usize, manner: Manner) {
    world.network.these_behave([world.network.ids()[number]], manner);
}

fn of(report: &AuditReport, outcome: &str) -> Vec<AuditedNode> {
    report.each.iter().filter(|node| node.outcome == outcome).cloned().collect()
}

#[tokio::test]
async fn honest_nodes_pass_and_their_transcripts_convince_anybody() {
    let (world, link) = world().await;
    let report = audit(&world, &link).await;
    assert_eq!(report.nodes, report.passed, "{:?}", report.each);
    assert!(report.nodes == 6 && report.proven_blocks > 0);
    assert!((report.detects_one_percent - (1.0 - 0.99f64.powi(12))).abs() < 1e-9, "three quarters of 16 by bytes");
    for node in &report.each {
        assert!(node.probe_ms.is_some() && node.failed_shards == 0);
        assert!(!node.transcripts.is_empty());
        for file in &node.transcripts {
            let view = check_transcript(&fs::read(file).unwrap()).unwrap();
            assert_eq!((view.outcome, view.hard_evidence, &view.node), ("passed", false, &node.node));
        }
    }
}

#[tokio::test]
async fn a_node_that_shows_other_bytes_convicts_itself() {
    let (world, link) = world().await;
    misbehave(&world, 0, Manner::Lying);
    let report = audit(&world, &link).await;
    let wrong = of(&report, "wrong");
    assert_eq!(wrong.len(), 1, "{:?}", report.each);
    assert!(wrong[0].failed_shards > 0);
    let views: Vec<_> =
        wrong[0].transcripts.iter().map(|file| check_transcript(&fs::read(file).unwrap()).unwrap()).collect();
    assert!(views.iter().all(|view| view.outcome == "wrong" && view.hard_evidence));
}

#[tokio::test]
async fn silent_unwilling_forgetful_and_dead_nodes_are_told_apart() {
    let (world, link) = world().await;
    misbehave(&world, 0, Manner::Silent);
    misbehave(&world, 1, Manner::Unwilling);
    misbehave(&world, 2, Manner::Forgetful);
    misbehave(&world, 3, Manner::Dead);
    let report = audit(&world, &link).await;
    for outcome in ["no_answer", "refused", "not_held", "offline"] {
        assert!(of(&report, outcome).len() <= 1, "{outcome}: {:?}", report.each);
    }
    assert_eq!(report.nodes - report.passed, 4, "{:?}", report.each);
    let silent = &of(&report, "no_answer")[0];
    let view = check_transcript(&fs::read(&silent.transcripts[0]).unwrap()).unwrap();
    assert_eq!((view.outcome, view.hard_evidence), ("no_answer", false), "silence is the auditor's word");
}
