//! The choice itself: weighted draws among the nodes that break the soft rules least, then exchanges that mend.

use std::collections::{BTreeMap, BTreeSet};

use super::domain::{Domain, RANKS};
use super::draw::{Draw, rank};
use super::{Candidate, Constraints, PlacementError, Plan, Warning};
use crate::ids::{NodeId, ShardIndex};
use crate::policy::Policy;

/// No node's weight counts for more than this many times the median.
const WEIGHT_CAP_MEDIANS: u128 = 4;

/// By how much something breaks the soft rules, most important rule first; compared in that order.
type Excess = [usize; RANKS];

/// Chooses the nodes of one segment.
///
/// The same arguments give the same plan everywhere, whatever the order of the candidates. `seed` belongs to the
/// dataset, so that segments differ by `segment_index` alone and the positions of data shards rotate over the nodes.
///
/// # Errors
/// [`PlacementError`]: too few nodes for the policy, or fixed shards that cannot be.
pub fn choose(
    candidates: &[Candidate],
    policy: Policy,
    constraints: &Constraints,
    seed: &[u8; 32],
    segment_index: u64,
) -> Result<Plan, PlacementError> {
    let fixed = checked_fixed(policy, constraints)?;
    let needed = usize::from(policy.n());
    let nodes = eligible(candidates, constraints, &fixed);
    if nodes.len() + fixed.len() < needed {
        return Err(PlacementError::TooFewNodes { eligible: nodes.len() + fixed.len(), needed });
    }
    let mut spread = Spread::new(&nodes, policy);
    for node in &fixed {
        if let Some(candidate) = candidates.iter().find(|candidate| candidate.node == *node) {
            spread.add_fixed(candidate);
        }
    }
    let mut draw = Draw::new(seed, "nodes", segment_index);
    let mut chosen = Vec::with_capacity(needed);
    let mut left: BTreeSet<usize> = (0..nodes.len()).collect();
    while chosen.len() + fixed.len() < needed {
        let Some(next) = spread.draw_least(&left, &mut draw) else { break };
        left.remove(&next);
        spread.add(next);
        chosen.push(next);
    }
    spread.mend(&mut chosen, &mut left, &mut draw);

    let mut spares = Vec::new();
    while spares.len() < constraints.spares_max {
        let Some(next) = spread.draw_least(&left, &mut draw) else { break };
        left.remove(&next);
        spares.push(nodes[next].node);
    }
    let chosen = chosen.into_iter().map(|index| nodes[index].node).collect();
    let assigned = assign(policy, constraints, chosen, seed, segment_index);
    Ok(Plan { assigned, spares, warnings: spread.warnings() })
}

fn checked_fixed(policy: Policy, constraints: &Constraints) -> Result<BTreeSet<NodeId>, PlacementError> {
    let mut fixed = BTreeSet::new();
    for (shard, node) in &constraints.fixed {
        if shard.get() >= usize::from(policy.n()) || !fixed.insert(*node) {
            return Err(PlacementError::Fixed { shard: *shard });
        }
    }
    Ok(fixed)
}

/// The candidates that may be given a shard, each once, in the order of their ids.
fn eligible<'a>(
    candidates: &'a [Candidate],
    constraints: &Constraints,
    fixed: &BTreeSet<NodeId>,
) -> Vec<&'a Candidate> {
    let allowed = |candidate: &&Candidate| {
        let region = constraints.regions.is_empty()
            || candidate
                .region
                .as_ref()
                .is_some_and(|region| constraints.regions.iter().any(|allowed| allowed.contains(region)));
        region
            && candidate.weight() > 0
            && !constraints.excluded.contains(&candidate.node)
            && !fixed.contains(&candidate.node)
    };
    let mut nodes: Vec<_> = candidates.iter().filter(allowed).collect();
    nodes.sort_by_key(|candidate| candidate.node);
    nodes.dedup_by_key(|candidate| candidate.node);
    nodes
}

/// Gives the chosen nodes their shards. Their order is one of the dataset's, turned by `k` places a segment, so
/// that every node holds data shards (which are read) and parity shards (which seldom are) in equal measure.
fn assign(
    policy: Policy,
    constraints: &Constraints,
    mut chosen: Vec<NodeId>,
    seed: &[u8; 32],
    segment_index: u64,
) -> Vec<NodeId> {
    chosen.sort_by_cached_key(|node| rank(seed, node.as_bytes()));
    if let Ok(count @ 1..) = u64::try_from(chosen.len()) {
        let turn = (segment_index % count) * u64::from(policy.k()) % count;
        chosen.rotate_left(usize::try_from(turn).expect("it is below a length"));
    }
    let mut chosen = chosen.into_iter();
    let shards = (0..policy.n()).map(ShardIndex::new);
    shards.filter_map(|shard| constraints.fixed.get(&shard).copied().or_else(|| chosen.next())).collect()
}

/// How many shards each domain holds so far, and what adding a node would do to the soft rules.
struct Spread {
    cap: usize,
    domains: Vec<Domain>,
    loads: Vec<usize>,
    /// Per node: its weight and its domains.
    nodes: Vec<(u128, Vec<usize>)>,
}

impl Spread {
    fn new(candidates: &[&Candidate], policy: Policy) -> Self {
        let mut numbers = BTreeMap::new();
        let mut domains = Vec::new();
        let mut number = |domain: Domain| {
            *numbers.entry(domain.clone()).or_insert_with(|| {
                domains.push(domain);
                domains.len() - 1
            })
        };
        let mut sorted: Vec<u128> = candidates.iter().map(|candidate| candidate.weight()).collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        let most = median.saturating_mul(WEIGHT_CAP_MEDIANS);
        let nodes = candidates
            .iter()
            .map(|candidate| {
                let domains = Domain::of(candidate).into_iter().map(&mut number).collect();
                (candidate.weight().min(most), domains)
            })
            .collect();
        let loads = vec![0; domains.len()];
        Self { cap: usize::from(policy.domain_cap()), domains, loads, nodes }
    }

    fn add_fixed(&mut self, candidate: &Candidate) {
        for domain in Domain::of(candidate) {
            if let Some(index) = self.domains.iter().position(|known| *known == domain) {
                self.loads[index] += 1;
            } else {
                self.domains.push(domain);
                self.loads.push(1);
            }
        }
    }

    fn add(&mut self, node: usize) {
        for &domain in &self.nodes[node].1 {
            self.loads[domain] += 1;
        }
    }

    fn remove(&mut self, node: usize) {
        for &domain in &self.nodes[node].1 {
            self.loads[domain] -= 1;
        }
    }

    /// How far above the cap the node's domains would be with it. Growing with the load, so that what cannot stay
    /// below the cap is spread evenly.
    fn excess_with(&self, node: usize) -> Excess {
        let mut excess = [0; RANKS];
        for &domain in &self.nodes[node].1 {
            excess[self.domains[domain].rank()] += (self.loads[domain] + 1).saturating_sub(self.cap);
        }
        excess
    }

    /// Draws by weight among the nodes that break the rules least.
    fn draw_least(&self, left: &BTreeSet<usize>, draw: &mut Draw) -> Option<usize> {
        let excess: Vec<(usize, Excess)> = left.iter().map(|node| (*node, self.excess_with(*node))).collect();
        let least = excess.iter().map(|(_, excess)| *excess).min()?;
        let best: Vec<usize> =
            excess.into_iter().filter(|(_, excess)| *excess == least).map(|(node, _)| node).collect();
        let place = draw.weighted(best.iter().map(|node| self.nodes[*node].0))?;
        best.get(place).copied()
    }

    /// Exchanges chosen nodes for others while that breaks the rules less: drawing one by one can run into a corner
    /// when operators, subnets and regions cross. Every exchange lowers the sum of all excess, so this ends. Corners
    /// that only several exchanges at once lead out of are left, with a warning: these rules are soft.
    fn mend(&mut self, chosen: &mut [usize], left: &mut BTreeSet<usize>, draw: &mut Draw) {
        let mut mended = true;
        while mended && !left.is_empty() {
            mended = false;
            for slot in chosen.iter_mut() {
                self.remove(*slot);
                let before = self.excess_with(*slot);
                if before == [0; RANKS] {
                    self.add(*slot);
                    continue;
                }
                let least = left.iter().map(|node| self.excess_with(*node)).min();
                if least.is_some_and(|least| least < before)
                    && let Some(better) = self.draw_least(left, draw)
                {
                    left.remove(&better);
                    left.insert(*slot);
                    *slot = better;
                    mended = true;
                }
                self.add(*slot);
            }
        }
    }

    fn warnings(&self) -> Vec<Warning> {
        let over = self.domains.iter().zip(&self.loads).filter(|(_, load)| **load > self.cap);
        let mut warnings: Vec<_> =
            over.map(|(domain, load)| Warning { domain: domain.clone(), shards: *load, cap: self.cap }).collect();
        warnings.sort_by(|a, b| a.domain.rank().cmp(&b.domain.rank()).then(b.shards.cmp(&a.shards)));
        warnings
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::OperatorId;
    use crate::limits::GIB;
    use crate::placement::STANDING_FULL;

    const SEED: [u8; 32] = [3; 32];

    fn candidate(number: u8) -> Candidate {
        Candidate {
            node: NodeId::new([number; 32]),
            operator: None,
            addresses: vec![[127, 0, 0, 1].into()],
            region: None,
            standing: STANDING_FULL,
            free_bytes: GIB,
            proven_bytes: 0,
        }
    }

    fn operated(number: u8, operator: u8) -> Candidate {
        Candidate { operator: Some(OperatorId::new([operator; 32])), ..candidate(number) }
    }

    fn policy(text: &str) -> Policy {
        text.parse().expect("a policy of the test")
    }

    fn most_of_one_operator(plan: &Plan, candidates: &[Candidate]) -> usize {
        let mut counts = BTreeMap::new();
        for node in &plan.assigned {
            let candidate = candidates.iter().find(|candidate| candidate.node == *node).expect("one of them");
            *counts.entry(candidate.operator).or_insert(0) += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }

    #[test]
    fn too_few_nodes_is_an_error_that_names_both_numbers() {
        let candidates: Vec<_> = (0..15).map(candidate).collect();
        assert_eq!(
            choose(&candidates, policy("7/16"), &Constraints::default(), &SEED, 0),
            Err(PlacementError::TooFewNodes { eligible: 15, needed: 16 })
        );
        let twice: Vec<_> = candidates.iter().chain(&candidates).cloned().collect();
        assert!(choose(&twice, policy("7/16"), &Constraints::default(), &SEED, 0).is_err(), "a node counts once");
    }

    #[test]
    fn excluded_nodes_useless_nodes_and_other_regions_are_never_chosen() {
        let mut candidates: Vec<_> = (0..12).map(candidate).collect();
        for (number, candidate) in candidates.iter_mut().enumerate() {
            candidate.region = Some(if number < 9 { "eu-de" } else { "us-ny" }.parse().expect("a region"));
        }
        candidates[0].free_bytes = 0;
        candidates[1].standing = 0;
        let constraints = Constraints {
            regions: vec!["eu".parse().expect("a region")],
            excluded: BTreeSet::from([candidates[2].node]),
            spares_max: 100,
            ..Constraints::default()
        };
        let plan = choose(&candidates, policy("2/4"), &constraints, &SEED, 0).expect("six are left");
        let mut used: Vec<_> = plan.assigned.iter().chain(&plan.spares).copied().collect();
        used.sort_unstable();
        assert_eq!(used, candidates[3..9].iter().map(|candidate| candidate.node).collect::<Vec<_>>());
    }

    #[test]
    fn no_operator_holds_more_than_half_of_what_may_be_lost_where_that_can_be() {
        // 7/16: nine may be lost, four of one operator are allowed; twenty nodes of one, five each of three others.
        let candidates: Vec<_> =
            (0..35).map(|number| operated(number, if number < 20 { 0 } else { number / 5 })).collect();
        for segment in 0..50 {
            let plan = choose(&candidates, policy("7/16"), &Constraints::default(), &SEED, segment).expect("enough");
            assert_eq!(plan.warnings, []);
            assert!(most_of_one_operator(&plan, &candidates) <= 4);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_spread_evenly_and_warned_about() {
        let candidates: Vec<_> = (0..40).map(|number| operated(number, number % 2)).collect();
        let plan = choose(&candidates, policy("7/16"), &Constraints::default(), &SEED, 0).expect("enough");
        assert_eq!(most_of_one_operator(&plan, &candidates), 8);
        assert_eq!(plan.warnings.iter().map(|warning| (warning.shards, warning.cap)).collect::<Vec<_>>(), [(8, 4); 2]);
    }

    #[test]
    fn an_exchange_leads_out_of_the_corner_that_drawing_runs_into() {
        // 1/2 allows one shard an operator and subnet. The first node shares something with each of the others, so
        // whenever it is drawn first the rules cannot be kept any more without giving it up.
        let mut candidates = vec![operated(0, 0), operated(1, 0), operated(2, 1)];
        for (candidate, subnet) in candidates.iter_mut().zip([1, 2, 1]) {
            candidate.addresses = vec![[203, 0, subnet, 1].into()];
        }
        for segment in 0..20 {
            let plan = choose(&candidates, policy("1/2"), &Constraints::default(), &SEED, segment).expect("enough");
            assert_eq!(plan.warnings, [], "segment {segment}");
        }
    }

    #[test]
    fn data_shards_rotate_over_the_nodes() {
        let candidates: Vec<_> = (0..16).map(candidate).collect();
        let mut data = BTreeMap::new();
        for segment in 0..16 {
            let plan = choose(&candidates, policy("7/16"), &Constraints::default(), &SEED, segment).expect("enough");
            for node in &plan.assigned[..7] {
                *data.entry(*node).or_insert(0) += 1;
            }
        }
        assert_eq!(data.into_values().collect::<Vec<_>>(), [7; 16], "each node holds data in 7 of 16 segments");
    }

    #[test]
    fn nodes_are_used_in_proportion_to_their_weight_up_to_four_medians() {
        let mut candidates: Vec<_> = (0..40).map(candidate).collect();
        candidates[0].free_bytes = 2 * GIB;
        candidates[1].free_bytes = 1000 * GIB;
        candidates[2].standing = STANDING_FULL / 10;
        let mut counts = BTreeMap::new();
        for segment in 0..4000 {
            let plan = choose(&candidates, policy("1/2"), &Constraints::default(), &SEED, segment).expect("enough");
            for node in plan.assigned {
                *counts.entry(node).or_insert(0i32) += 1;
            }
        }
        let count = |number: usize| counts.get(&candidates[number].node).copied().unwrap_or(0);
        let usual = (3..40).map(count).sum::<i32>() / 37;
        assert!((count(0) - 2 * usual).abs() < usual / 2, "twice the space: {} against {usual}", count(0));
        assert!((3 * usual..5 * usual).contains(&count(1)), "capped: {} against {usual}", count(1));
        assert!(count(2) < usual / 3, "bad standing: {} against {usual}", count(2));
    }

    #[test]
    fn fixed_shards_stay_and_count_in_the_rules() {
        let candidates: Vec<_> = (0..20).map(|number| operated(number, number % 10)).collect();
        let fixed =
            BTreeMap::from([(ShardIndex::new(2), candidates[0].node), (ShardIndex::new(5), NodeId::new([99; 32]))]);
        let constraints = Constraints { fixed, ..Constraints::default() };
        let plan = choose(&candidates, policy("3/6"), &constraints, &SEED, 0).expect("enough");
        assert_eq!((plan.assigned[2], plan.assigned[5]), (candidates[0].node, NodeId::new([99; 32])));
        assert!(!plan.assigned.contains(&candidates[10].node), "the other node of the fixed one's operator");
        let twice =
            BTreeMap::from([(ShardIndex::new(0), NodeId::new([1; 32])), (ShardIndex::new(1), NodeId::new([1; 32]))]);
        let constraints = Constraints { fixed: twice, ..Constraints::default() };
        assert_eq!(
            choose(&candidates, policy("3/6"), &constraints, &SEED, 0),
            Err(PlacementError::Fixed { shard: ShardIndex::new(1) })
        );
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (any::<u8>(), 0..6u8, 0..6u8, 0..4u8, any::<u16>(), any::<u64>(), any::<u64>()).prop_map(
            |(number, operator, subnet, region, standing, free_bytes, proven_bytes)| Candidate {
                node: NodeId::new([number; 32]),
                operator: (operator > 0).then(|| OperatorId::new([operator; 32])),
                addresses: vec![if subnet > 0 { [203, 0, subnet, 1].into() } else { [10, 0, 0, 1].into() }],
                region: (region > 0).then(|| format!("r{region}").parse().expect("a region")),
                standing,
                free_bytes,
                proven_bytes,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn plans_keep_the_hard_rules_and_do_not_depend_on_the_order(
            mut candidates in proptest::collection::vec(any_candidate(), 0..60),
            (k, more) in (1..8u8, 0..9u8),
            segment: u64,
        ) {
            candidates.sort_by_key(|candidate| candidate.node);
            candidates.dedup_by_key(|candidate| candidate.node);
            let policy = Policy::new(k, k + more).expect("a policy");
            let constraints = Constraints { spares_max: 5, ..Constraints::default() };
            let plan = choose(&candidates, policy, &constraints, &SEED, segment);
            candidates.reverse();
            prop_assert_eq!(&plan, &choose(&candidates, policy, &constraints, &SEED, segment));
            let useful = candidates.iter().filter(|candidate| candidate.weight() > 0).count();
            match plan {
                Err(error) => {
                    let needed = usize::from(policy.n());
                    prop_assert_eq!(error, PlacementError::TooFewNodes { eligible: useful, needed });
                    prop_assert!(useful < needed);
                }
                Ok(plan) => {
                    prop_assert_eq!(plan.assigned.len(), usize::from(policy.n()));
                    let used: BTreeSet<_> = plan.assigned.iter().chain(&plan.spares).collect();
                    prop_assert_eq!(used.len(), plan.assigned.len() + plan.spares.len(), "a node is used once");
                    prop_assert_eq!(plan.spares.len(), 5.min(useful - plan.assigned.len()));
                }
            }
        }
    }
}
