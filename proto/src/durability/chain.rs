//! The model as a Markov chain over the number of lost shards, solved for a point in time.

use super::Model;

type Matrix = Vec<Vec<f64>>;

/// Largest expected number of jumps in the time that the series is used for; the rest is done by squaring.
const JUMPS_MAX: f64 = 1.0;

/// `binomial(n, k)`; exact enough for n up to 64.
fn binomial(n: u32, k: u32) -> f64 {
    if k > n { 0.0 } else { (0..k).fold(1.0, |product, i| product * f64::from(n - i) / f64::from(i + 1)) }
}

/// The rates of the chain: from row to column. The last state is loss.
fn rates(model: &Model) -> Matrix {
    let (n, m) = (u32::from(model.policy.n()), u32::from(model.policy.m()));
    let states = usize::from(model.policy.m()) + 2;
    let mut rates = vec![vec![0.0; states]; states];
    for (lost, row) in (0..=m).zip(&mut rates) {
        let left = n - lost;
        let place = |state: u32| usize::try_from(state.min(m + 1)).unwrap_or(0);
        row[place(lost + 1)] += f64::from(left) * model.node_failures_per_year;
        for (load, rate) in model.strikes() {
            for new in 1..=load.min(left) {
                let chance = binomial(left, new) * binomial(lost, load - new) / binomial(n, load);
                row[place(lost + new)] += rate * chance;
            }
        }
        if place(lost) >= model.trigger() {
            row[0] += model.repairs_per_year;
        }
    }
    rates
}

/// Only sums and products of what is not negative: so the smallest probabilities are as exact as the largest.
fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let mut result = vec![vec![0.0; b.len()]; a.len()];
    for (row, result) in a.iter().zip(&mut result) {
        for (value, from) in row.iter().zip(b) {
            if *value > 0.0 {
                for (sum, factor) in result.iter_mut().zip(from) {
                    *sum += value * factor;
                }
            }
        }
    }
    result
}

/// By uniformisation over a time short enough, then by squaring.
pub(super) fn loss_probability(model: &Model, years: f64) -> f64 {
    let mut step = rates(model);
    let fastest = step.iter().map(|row| row.iter().sum::<f64>()).fold(0.0, f64::max);
    if fastest <= 0.0 {
        return 0.0;
    }
    for (state, row) in step.iter_mut().enumerate() {
        let leaving: f64 = row.iter().sum();
        row.iter_mut().for_each(|rate| *rate /= fastest);
        row[state] += (1.0 - leaving / fastest).max(0.0);
    }
    let mut doublings = 0;
    let mut jumps = fastest * years;
    while jumps > JUMPS_MAX {
        jumps /= 2.0;
        doublings += 1;
    }
    let states = step.len();
    let mut power: Matrix =
        (0..states).map(|i| (0..states).map(|j| if i == j { 1.0 } else { 0.0 }).collect()).collect();
    let mut sum = vec![vec![0.0; states]; states];
    let mut weight = (-jumps).exp();
    // Loss takes at most `states` jumps; forty more weigh less than 1e-47 of that.
    for jump in 0..u32::try_from(states).unwrap_or(u32::MAX) + 40 {
        for (row, powers) in sum.iter_mut().zip(&power) {
            row.iter_mut().zip(powers).for_each(|(sum, power)| *sum += weight * power);
        }
        power = product(&power, &step);
        weight *= jumps / f64::from(jump + 1);
    }
    for _ in 0..doublings {
        sum = product(&sum, &sum);
    }
    sum.first().and_then(|row| row.last()).copied().unwrap_or(1.0).min(1.0)
}
