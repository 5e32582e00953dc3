//! The Jensen–Shannon divergence.
//!
//! J. Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information Theory 37 (1), 1991:
//! the mean of the two Kullback–Leibler divergences from the mean of both. By logarithms to base 2 it lies in 0..=1; it is
//! symmetric, and finite whatever is 0.

use super::{
    category::{COUNT, Category, Shares},
    window::Window,
};

/// What one category adds to the divergence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contribution {
    /// The category.
    pub category: Category,
    /// Its share of what the session does, 0..=1.
    pub share: f64,
    /// Its share of what is usual, 0..=1.
    pub usual: f64,
    /// Bits; all of them sum to the divergence.
    pub bits: f64,
}

/// `p log2(p / m)`, whose limit for p → 0 is 0.
fn term(p: f64, m: f64) -> f64 {
    if p > 0.0 && m > 0.0 {
        p * (p / m).log2()
    } else {
        0.0
    }
}

/// What each category contributes, by number. Both are distributions.
fn parts(p: &Shares, q: &Shares) -> [f64; COUNT] {
    let mut parts = [0.0; COUNT];
    for ((part, p), q) in parts.iter_mut().zip(p.0).zip(q.0) {
        let m = f64::midpoint(p, q);
        // Never below 0 but for rounding: by the log sum inequality each is at least 0.
        *part = (0.5 * (term(p, m) + term(q, m))).max(0.0);
    }
    parts
}

/// The divergence of two distributions in bits, 0..=1.
pub fn divergence(p: &Shares, q: &Shares) -> f64 {
    parts(p, q).iter().sum::<f64>().clamp(0.0, 1.0)
}

/// What each category contributes to the divergence of a window from a baseline, the greatest first.
pub fn contributions(window: &Window, usual: &Shares) -> Vec<Contribution> {
    compare(&window.smoothed(usual), usual)
}

/// What each category contributes to the divergence of two distributions, the greatest first.
pub fn compare(now: &Shares, usual: &Shares) -> Vec<Contribution> {
    let mut all: Vec<Contribution> = Category::ALL
        .into_iter()
        .zip(parts(now, usual))
        .map(|(category, bits)| Contribution {
            category,
            share: now.of(category),
            usual: usual.of(category),
            bits,
        })
        .collect();
    all.sort_by(|a, b| b.bits.total_cmp(&a.bits));
    all
}
