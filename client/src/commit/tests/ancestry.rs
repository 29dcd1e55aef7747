//! Writers whose heads go in front of heads that they were not made from, one after the other and in a fixed order.
//!
//! What two machines base their changes on is made the same by bringing heads back between them.

use super::*;

type Heads = BTreeMap<dolmen_proto::ids::NodeId, BTreeMap<(dolmen_proto::ids::Point, [u8; 32]), bytes::Bytes>>;

const TAGS: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// Two machines of one dataset.
struct Pair {
    world: World,
    one: Machine,
    mine: Dataset,
    other: Machine,
    theirs: Dataset,
    before: Heads,
}

impl Pair {
    async fn new() -> Self {
        let world = World::new(5);
        let (one, other) = (world.machine().await, world.machine().await);
        let mine = one.create("shared").await;
        one.put(&mine, &[("first", b"1")]).await.unwrap();
        let theirs = other.dataset("shared").await;
        let before = world.network.all_heads();
        Self { world, one, mine, other, theirs, before }
    }

    /// What nodes have when the other machine has made so many changes to what was there before.
    async fn of_other(&self, changes: usize) -> Heads {
        let now = self.world.network.all_heads();
        self.world.network.set_heads(&self.before);
        for tag in &TAGS[..changes] {
            within(self.theirs.tag(&Selector::Newest, tag)).await.unwrap();
        }
        let of_other = self.world.network.all_heads();
        self.world.network.set_heads(&now);
        of_other
    }

    /// Both machines, and one that knew nothing, find these files beside the first one, and these tags.
    async fn check(&self, files: &[(&str, &[u8])], tags: &[&str]) {
        let all = expected(&[&[("first", &b"1"[..])], files].concat());
        let new = self.world.machine().await;
        for dataset in [&self.mine, &self.theirs, &new.dataset("shared").await] {
            let found = super::files(dataset, &Selector::Newest).await;
            let warnings = (self.one.warnings(), self.other.warnings());
            assert_eq!(found.keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>(), "{warnings:?}");
            assert_eq!(found, all);
            let log = within(dataset.log()).await.unwrap();
            let found: BTreeSet<&str> = log.iter().flat_map(|entry| &entry.tags).map(String::as_str).collect();
            assert_eq!(found, tags.iter().copied().collect());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_in_front_of_a_put_that_he_did_not_see_brings_it_in() {
    let pair = Pair::new().await;
    pair.one.put(&pair.mine, &[("put", b"2")]).await.unwrap();
    let of_one = pair.world.network.all_heads();
    pair.world.network.set_heads(&pair.before);
    within(pair.theirs.tag(&Selector::Newest, "t0")).await.unwrap();
    // The put won over that tag, after the next one was begun on it.
    pair.world.network.before_next_head(move |network| network.set_heads(&of_one));
    within(pair.theirs.tag(&Selector::Newest, "t1")).await.unwrap();
    let found = files(&pair.theirs, &Selector::Newest).await;
    assert!(found.contains_key("put"), "{:?}", pair.other.warnings());
    pair.check(&[("put", b"2")], &["t0", "t1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_comes_back_however_many_changes_went_in_front_of_it() {
    for changes in 2..=TAGS.len() {
        let pair = Pair::new().await;
        let of_other = pair.of_other(changes).await;
        pair.one.put(&pair.mine, &[("put", b"2")]).await.unwrap();
        assert_eq!(pair.mine.log().await.unwrap().len(), 2, "that it was there once is not enough");
        pair.world.network.set_heads(&of_other);
        assert!(files(&pair.mine, &Selector::Newest).await.contains_key("put"), "{:?}", pair.one.warnings());
        pair.check(&[("put", b"2")], &TAGS[..changes]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_puts_come_back_when_the_newest_of_several_went_unseen() {
    let pair = Pair::new().await;
    let of_other = pair.of_other(4).await;
    pair.one.put(&pair.mine, &[("put", b"2")]).await.unwrap();
    pair.one.put(&pair.mine, &[("again", b"3")]).await.unwrap();
    pair.world.network.set_heads(&of_other);
    pair.check(&[("put", b"2"), ("again", b"3")], &TAGS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_loses_takes_what_it_was_made_from_along() {
    for repeated in [true, false] {
        let pair = Pair::new().await;
        let of_other = pair.of_other(3).await;
        pair.one.put(&pair.mine, &[("put", b"2")]).await.unwrap();
        pair.world.network.before_next_head(move |network| network.set_heads(&of_other));
        if repeated {
            within(pair.mine.tag(&Selector::Newest, "mine")).await.unwrap();
            pair.check(&[("put", b"2")], &["t0", "t1", "t2", "mine"]).await;
        } else {
            pair.one.put(&pair.mine, &[("again", b"3")]).await.unwrap();
            pair.check(&[("put", b"2"), ("again", b"3")], &TAGS[..3]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_head_that_a_node_still_has_is_not_brought_in_again() {
    let pair = Pair::new().await;
    pair.one.put(&pair.mine, &[("gone", b"2")]).await.unwrap();
    let old = pair.world.network.all_heads();
    within(pair.mine.remove_path(b"gone", "")).await.unwrap();
    within(pair.mine.forget(&ForgetPolicy { last: 1, ..ForgetPolicy::default() })).await.unwrap();
    let mut mixed = pair.world.network.all_heads();
    mixed.extend(old.into_iter().take(2));
    pair.world.network.set_heads(&mixed);
    pair.check(&[], &[]).await;
    assert_eq!(pair.theirs.log().await.unwrap().len(), 1);
    assert!(pair.one.warnings().is_empty() && pair.other.warnings().is_empty());
}
