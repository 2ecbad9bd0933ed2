//! More clients than descriptors: they wait in the kernel's queue, and nothing spins or dies.

use std::time::Duration;

use crate::support::{Client, Engine, Origin, Proxy, eventually, get, now, pause};

on_both_engines! {
    who_finds_no_room_waits_for_it,
    a_full_house_costs_no_time,
    it_says_that_it_cannot_accept,
}

/// What is left of this beside the reserve is room for 20 connections.
const DESCRIPTORS: usize = 216;
const ROOM: usize = 20;

fn who_finds_no_room_waits_for_it(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::start_within(engine, DESCRIPTORS, &["--backends", &origin.backend()]);
    assert!(
        proxy
            .log()
            .iter()
            .any(|line| line.contains("at most 20 connections")),
        "{:#?}",
        proxy.log()
    );
    let mut clients: Vec<Client> = (0..ROOM * 3)
        .map(|_| Client::connect(proxy.address))
        .collect();
    clients.iter().for_each(|client| client.send(get("/")));
    // Each that leaves makes room for the next.
    for mut client in clients.drain(..) {
        client.response().expect_status(200);
    }
    drop(origin);
    proxy.finish();
}

fn a_full_house_costs_no_time(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::start_within(engine, DESCRIPTORS, &["--backends", &origin.backend()]);
    let mut inside: Vec<Client> = (0..ROOM).map(|_| Client::connect(proxy.address)).collect();
    inside
        .iter_mut()
        .for_each(|client| drop(client.get("/").expect_status(200)));
    let outside: Vec<Client> = (0..ROOM).map(|_| Client::connect(proxy.address)).collect();
    let (before, began) = (proxy.cpu_ticks(), now());
    eventually("a second to pass", || {
        began.elapsed() > Duration::from_secs(1)
    });
    let used = proxy.cpu_ticks() - before;
    assert!(
        used <= 10,
        "{used} of 100 ticks of a second were used for nothing"
    );
    // Who is inside is served as ever.
    inside
        .iter_mut()
        .for_each(|client| drop(client.get("/").expect_status(200)));
    drop((inside, outside, origin));
    let said = |words: &str| {
        proxy
            .log()
            .iter()
            .filter(|line| line.contains(words))
            .count()
    };
    eventually("room", || said("room for new connections again") == 1);
    assert_eq!(
        said("all 20 connections are taken"),
        1,
        "{:#?}",
        proxy.log()
    );
    proxy.finish();
}

/// Fewer descriptors than it counted on, as where another process of the same user took them.
fn it_says_that_it_cannot_accept(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    Client::connect(proxy.address).get("/").expect_status(200);
    proxy.limit_descriptors(0);
    // The first may still be let in.
    let mut waiting = [(); 2].map(|()| Client::connect(proxy.address));
    let said = |words: &str| proxy.log().iter().any(|line| line.contains(words));
    eventually("the warning", || said("cannot accept: "));
    proxy.limit_descriptors(DESCRIPTORS);
    for client in &mut waiting {
        client.get("/").expect_status(200);
    }
    let ticks = u64::from(fastlb::limits::ACCEPT_FAILING_TICKS);
    // As long as it may take before that is believed.
    pause(Duration::from_millis((ticks + 5) * fastlb::limits::TICK_MS));
    let well = "new connections are accepted again";
    assert!(!said(well), "nobody has come since");
    Client::connect(proxy.address).get("/").expect_status(200);
    eventually("the end of it", || said(well));
    drop((waiting, origin));
    proxy.finish();
}
