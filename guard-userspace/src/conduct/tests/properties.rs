//! What holds whatever is done.

use proptest::prelude::*;

use super::super::*;

fn shares() -> impl Strategy<Value = Shares> {
    // Zeros are common, and huge differences as well.
    let weight =
        prop_oneof![3 => Just(0.0), 5 => 0.0..10.0f64, 1 => 0.0..1e9f64, 1 => 0.0..1e-9f64];
    prop::collection::vec(weight, COUNT).prop_map(|weights| {
        let mut shares = Shares::default();
        for (category, weight) in Category::ALL.into_iter().zip(weights) {
            shares.add(category, weight);
        }
        shares.normalised()
    })
}

fn acts() -> impl Strategy<Value = Vec<(Category, u64)>> {
    let act = (
        0..COUNT,
        prop_oneof![Just(0u64), 0..5_000_000_000u64, 0..10_000_000_000_000u64],
    );
    prop::collection::vec(act, 0..300).prop_map(|acts| {
        acts.into_iter()
            .map(|(index, after)| (Category::ALL[index], after))
            .collect()
    })
}

fn window_of(acts: &[(Category, u64)]) -> (Window, u64) {
    let mut window = Window::default();
    let mut now = 1;
    for (category, after) in acts {
        now += after;
        window.note(*category, now);
    }
    (window, now)
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_divergence_is_symmetric_and_between_0_and_1(p in shares(), q in shares()) {
        let d = divergence(&p, &q);
        prop_assert!((0.0..=1.0).contains(&d), "{d}");
        prop_assert!(near(d, divergence(&q, &p)));
        prop_assert!(divergence(&p, &p) < 1e-12);
    }

    #[test]
    fn its_root_is_a_metric(p in shares(), q in shares(), r in shares()) {
        // Endres and Schindelin, 2003: a mistake in the formula breaks the triangle first.
        let root = |a: &Shares, b: &Shares| divergence(a, b).sqrt();
        prop_assert!(root(&p, &r) <= root(&p, &q) + root(&q, &r) + 1e-6);
    }

    #[test]
    fn what_the_categories_contribute_sums_to_the_divergence(acts in acts(), usual in shares()) {
        let (window, _) = window_of(&acts);
        let usual = Baseline { weights: usual.scaled(100.0), ..Baseline::new("x") }.usual();
        let all = contributions(&window, &usual);
        let sum: f64 = all.iter().map(|one| one.bits).sum();
        prop_assert!(near(sum, divergence(&window.smoothed(&usual), &usual)));
        prop_assert!(all.windows(2).all(|pair| pair[0].bits >= pair[1].bits));
        prop_assert_eq!(all.len(), COUNT);
    }

    #[test]
    fn scores_stay_in_their_bounds(acts in acts(), usual in shares(), lost in 0.0..1e300f64) {
        let (mut window, now) = window_of(&acts);
        window.note_opaque(lost, now);
        let usual = Baseline { weights: usual.scaled(100.0), ..Baseline::new("x") }.usual();
        if let Some(scores) = assess(&window, &usual) {
            for score in [scores.consistency, scores.restraint, scores.transparency] {
                prop_assert!((0.0..=1.0).contains(&score), "{scores:?}");
            }
            prop_assert!(scores.score() <= 100);
        } else {
            prop_assert!(window.weight() < COLD);
        }
    }

    #[test]
    fn a_window_never_weighs_more_than_its_half_life_allows(acts in acts()) {
        let (window, _) = window_of(&acts);
        // The sum of a geometric series.
        let most = 1.0 / (1.0 - (-1.0 / HALF_LIFE_ACTS).exp2());
        prop_assert!(window.weight() <= most + 1e-9, "{}", window.weight());
    }

    #[test]
    fn half_of_it_is_left_after_a_half_life(acts in acts(), category in 0..COUNT) {
        let (mut window, now) = window_of(&acts);
        let (mut early, late) = (window.clone(), now + (HALF_LIFE_S * 1e9) as u64);
        // Nothing is known of it, so that the weights only fade.
        early.note_opaque(0.0, now);
        window.note_opaque(0.0, late);
        let _ = category;
        prop_assert!(near(early.weight() / 2.0, window.weight()));
    }

    #[test]
    fn a_window_comes_back_from_json_as_it_was(acts in acts()) {
        let (window, now) = window_of(&acts);
        let text = serde_json::to_string(&window).unwrap();
        // Constant, whatever happened: every category with its longest number fits.
        prop_assert!(text.len() < 1500, "{}", text.len());
        let mut back: Window = serde_json::from_str(&text).unwrap();
        let mut window = window;
        // JSON's numbers may differ in the last digit.
        prop_assert!(near(back.weight(), window.weight()));
        window.note(Category::Build, now + 5);
        back.note(Category::Build, now + 5);
        prop_assert!(near(back.weight(), window.weight()));
        prop_assert!(near(back.overreach(), window.overreach()));
    }

    #[test]
    fn grave_acts_at_one_moment_count_the_same_in_any_order(mut acts in acts(), seed in any::<u64>()) {
        // Of work the order matters: a run counts as one piece of work. And only the last acts differ in their age.
        acts.retain(|(category, _)| !category.is_work());
        acts.truncate(40);
        for act in &mut acts {
            act.1 = 0;
        }
        let (window, _) = window_of(&acts);
        let mut other = acts.clone();
        let mut state = seed;
        for at in (1..other.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            other.swap(at, (state >> 33) as usize % (at + 1));
        }
        let (other, _) = window_of(&other);
        prop_assert!(near(window.weight(), other.weight()));
    }

    #[test]
    fn baselines_join_in_any_order(parts in prop::collection::vec((shares(), 1..1000u64), 1..8)) {
        let join = |parts: &[(Shares, u64)]| {
            let mut all = Baseline::new("x");
            for (weights, acts) in parts {
                all.learn(weights, *acts);
            }
            all
        };
        let forth = join(&parts);
        let back: Vec<_> = parts.iter().rev().copied().collect();
        let back = join(&back);
        let mut merged = join(&parts[..1]);
        merged.merge(&join(&parts[1..]));
        prop_assert!(forth.distance(&back) < 1e-9 && forth.distance(&merged) < 1e-9);
        prop_assert_eq!((forth.sessions, forth.acts), (back.sessions, back.acts));
        prop_assert_eq!(merged.sessions, forth.sessions);
    }

    #[test]
    fn more_overreach_never_raises_restraint(acts in acts(), grave in 0..COUNT) {
        let category = Category::ALL[grave];
        prop_assume!(category.gravity() >= 1.0);
        let baselines = Baselines::default();
        let usual = baselines.usual("x");
        let (mut window, now) = window_of(&acts);
        if let Some(before) = assess(&window, usual) {
            let gravity = window.smoothed(usual).gravity();
            window.note(category, now);
            let after = assess(&window, usual).unwrap();
            // Beside graver ones it is the milder act.
            if category.gravity() >= gravity {
                prop_assert!(after.restraint <= before.restraint + 1e-12);
            }
        }
    }
}

#[test]
fn distributions_with_nothing_in_common_are_one_bit_apart() {
    let (mut p, mut q) = (Shares::default(), Shares::default());
    p.add(Category::Build, 1.0);
    q.add(Category::Credential, 0.5);
    q.add(Category::Destructive, 0.5);
    assert!((divergence(&p, &q) - 1.0).abs() < 1e-12);
    // By hand: p = (1/2, 1/2), q = (1, 0): 1.5 - 0.75 log2 3.
    let mut half = Shares::default();
    half.add(Category::Build, 0.5);
    half.add(Category::Other, 0.5);
    let expected = 1.5 - 0.75 * 3f64.log2();
    assert!((divergence(&half, &p) - expected).abs() < 1e-12);
}

#[test]
fn a_thousand_compilers_are_one_build_and_ten_credentials_are_ten() {
    let mut window = Window::default();
    for n in 0..1000 {
        window.note(Category::Build, n);
    }
    assert!(window.weight() < 7.5, "{}", window.weight());
    let before = window.weight();
    for n in 0..10 {
        window.note(Category::Credential, 1000 + n);
    }
    assert!(window.weight() - before > 8.0, "{}", window.weight());
}

#[test]
fn what_runs_backwards_in_time_decays_nothing() {
    let mut window = Window::default();
    window.note(Category::Credential, 5_000_000_000_000);
    let before = window.weight();
    window.note(Category::Credential, 1);
    assert!(window.weight() > before);
}
