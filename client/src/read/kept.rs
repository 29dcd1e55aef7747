//! What is kept in memory between reads: the things used last, up to a weight.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A bounded map that forgets what was not used for longest.
#[derive(Debug)]
pub(crate) struct Kept<K, V> {
    map: HashMap<K, (V, u64, u64)>,
    /// Keys by the time of their last use.
    order: BTreeMap<u64, K>,
    clock: u64,
    weight: u64,
    most: u64,
}

impl<K: Hash + Eq + Copy, V: Clone> Kept<K, V> {
    /// Keeps things whose weights come to no more than `most`.
    pub(crate) fn new(most: u64) -> Self {
        Self { map: HashMap::new(), order: BTreeMap::new(), clock: 0, weight: 0, most }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        let (value, _, used) = self.map.get_mut(key)?;
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, *key);
        Some(value.clone())
    }

    /// Keeps one thing more; one that weighs more than all may is not kept.
    pub(crate) fn put(&mut self, key: K, value: V, weight: u64) {
        self.remove(&key);
        if weight > self.most {
            return;
        }
        self.clock += 1;
        self.weight += weight;
        self.order.insert(self.clock, key);
        self.map.insert(key, (value, weight, self.clock));
        while self.weight > self.most {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            if let Some((_, weight, _)) = self.map.remove(&oldest) {
                self.weight -= weight;
            }
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some((_, weight, used)) = self.map.remove(key) {
            self.order.remove(&used);
            self.weight -= weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_weight_is_bounded() {
        let mut kept = Kept::new(10);
        for key in 0..3 {
            kept.put(key, key * 10, 4);
        }
        assert_eq!((kept.get(&0), kept.get(&1), kept.get(&2)), (None, Some(10), Some(20)));
        kept.get(&1);
        kept.put(3, 30, 6);
        assert_eq!((kept.get(&1), kept.get(&2), kept.get(&3)), (Some(10), None, Some(30)));
        kept.put(3, 31, 1);
        kept.put(4, 40, 5);
        assert_eq!((kept.get(&1), kept.get(&3), kept.get(&4)), (Some(10), Some(31), Some(40)));
        kept.put(5, 50, 11);
        assert_eq!((kept.get(&5), kept.get(&1)), (None, Some(10)));
    }
}
