//! Round robin as clients and backends see it: exact shares, weights, dead backends passed over.

use std::collections::BTreeMap;
use std::thread;

use crate::support::{Client, Engine, Origin, Proxy, get, refusing_address};

on_both_engines! {
    shares_are_even_and_in_turn,
    shares_are_even_over_two_workers,
    shares_follow_weights,
    refused_backends_are_passed_over,
    answers_503_where_all_refuse,
}

fn shares_are_even_and_in_turn(engine: Engine) {
    let origins = three_origins();
    let proxy = Proxy::start(engine, &["--backends", &list(&origins)]);
    let mut client = Client::connect(proxy.address);
    let served: Vec<String> = (0..30).map(|_| backend_of(&mut client)).collect();
    for turn in served.windows(4) {
        assert_eq!(
            turn[0], turn[3],
            "each backend comes again after the two others: {served:?}"
        );
    }
    assert_eq!(count(&served), expected(&[("a", 10), ("b", 10), ("c", 10)]));
    drop((client, origins));
    proxy.finish();
}

fn shares_are_even_over_two_workers(engine: Engine) {
    let origins = three_origins();
    let proxy = Proxy::start(engine, &["--cores", "2", "--backends", &list(&origins)]);
    let address = proxy.address;
    let clients: Vec<_> = (0..12)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..25).map(|_| backend_of(&mut client)).collect::<Vec<_>>()
            })
        })
        .collect();
    let served: Vec<String> = clients
        .into_iter()
        .flat_map(|client| client.join().expect("every answer came"))
        .collect();
    // The workers share one cursor, so the shares are exact, not merely close.
    assert_eq!(
        count(&served),
        expected(&[("a", 100), ("b", 100), ("c", 100)])
    );
    drop(origins);
    proxy.finish();
}

fn shares_follow_weights(engine: Engine) {
    let (heavy, light) = (Origin::named("heavy"), Origin::named("light"));
    let backends = format!("{}@3,{}@1", heavy.backend(), light.backend());
    let proxy = Proxy::start(engine, &["--backends", &backends]);
    let mut client = Client::connect(proxy.address);
    let served: Vec<String> = (0..40).map(|_| backend_of(&mut client)).collect();
    for turn in served.chunks(4) {
        assert_eq!(
            count(turn),
            expected(&[("heavy", 3), ("light", 1)]),
            "{served:?}"
        );
    }
    drop((client, heavy, light));
    proxy.finish();
}

fn refused_backends_are_passed_over(engine: Engine) {
    let (_bound, refusing) = refusing_address();
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let backends = format!("{},{refusing},{}", a.backend(), b.backend());
    let proxy = Proxy::start(engine, &["--backends", &backends]);
    let mut client = Client::connect(proxy.address);
    let served: Vec<String> = (0..30).map(|_| backend_of(&mut client)).collect();
    let shares = count(&served);
    assert_eq!(shares.values().sum::<usize>(), 30);
    assert!(shares["a"] >= 10 && shares["b"] >= 10, "{shares:?}");
    // A body goes along with a request that had to look for another backend.
    for _ in 0..6 {
        client.post("/", b"again").expect_status(200);
    }
    drop((client, a, b));
    proxy.finish();
}

fn answers_503_where_all_refuse(engine: Engine) {
    let (_one, first) = refusing_address();
    let (_two, second) = refusing_address();
    let proxy = Proxy::start(engine, &["--backends", &format!("{first},{second}")]);
    let mut client = Client::connect(proxy.address);
    for _ in 0..3 {
        let response = client.get("/").expect_status(503);
        assert!(!response.body.is_empty(), "the reason is missing");
        assert!(
            !response.head.connection_says("close"),
            "nothing is wrong with this client"
        );
    }
    drop(client);
    proxy.finish();
}

fn three_origins() -> [Origin; 3] {
    [Origin::named("a"), Origin::named("b"), Origin::named("c")]
}

fn list(origins: &[Origin]) -> String {
    origins
        .iter()
        .map(Origin::backend)
        .collect::<Vec<_>>()
        .join(",")
}

fn backend_of(client: &mut Client) -> String {
    client.send(get("/"));
    let response = client.response().expect_status(200);
    response
        .field("x-backend")
        .expect("the origins say their names")
        .to_owned()
}

fn count(served: &[String]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for name in served {
        *shares.entry(name.as_str()).or_default() += 1;
    }
    shares
}

fn expected<'a>(shares: &[(&'a str, usize)]) -> BTreeMap<&'a str, usize> {
    shares.iter().copied().collect()
}
