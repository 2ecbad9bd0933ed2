//! What a request costs the load generator in allocations: nothing.
//!
//! A process of its own, because every allocation of every thread in it is counted.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::alloc::System;
use std::time::Duration;

use common::Program;
use fastlb_bench::loadgen::{self, Checksum, Expect, Pace, Plan, Request, Reuse, Target};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations by which two runs may differ that differ in their length alone: those of the thread
/// that watches them.
const DIFFERENCE_MAX: usize = 64;

/// Good responses of a run, and its allocations from beginning to end.
fn run(plan: &Plan) -> (u64, usize) {
    let region = Region::new(ALLOCATOR);
    let tally = loadgen::run(plan, |_| {}).unwrap();
    let change = region.change();
    (tally.good(), change.allocations + change.reallocations)
}

#[test]
fn a_request_allocates_nothing() {
    let origin = Program::start(env!("CARGO_BIN_EXE_origin"), &[]);
    let mut plan = Plan {
        targets: vec![Target {
            address: origin.address,
            host: "a".to_owned(),
            path: "/bytes/20000".to_owned(),
        }],
        connections: 4,
        threads: 1,
        pace: Pace::Closed,
        reuse: Reuse::Kept { depth: 2 },
        request: Request {
            method: "GET".to_owned(),
            fields: Vec::new(),
            body_bytes: 0,
        },
        expect: Expect {
            status: Some(200),
            length: Some(20_000),
            checksum: Checksum::First,
        },
        warm_up: Duration::ZERO,
        duration: Duration::ZERO,
        timeout: Duration::from_secs(5),
        watch: None,
    };
    for pace in [Pace::Closed, Pace::Open { rate: 2_000 }] {
        plan.pace = pace;
        plan.duration = Duration::from_millis(50);
        let (few, at_first) = run(&plan);
        plan.duration = Duration::from_millis(800);
        let (many, in_all) = run(&plan);
        assert!(many > few + 10 * DIFFERENCE_MAX as u64, "{few}, {many}");
        assert!(
            in_all <= at_first + DIFFERENCE_MAX,
            "{pace:?}: {at_first} allocations for {few} requests, {in_all} for {many}"
        );
    }
}
