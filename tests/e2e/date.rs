//! The `Date` of responses (RFC 9110 section 6.6.1).

use std::time::{Duration, SystemTime};

use crate::support::{Client, Engine, Origin, Proxy, answer, eventually};

on_both_engines! {
    a_response_without_a_date_gets_that_of_its_second,
    our_own_answers_have_a_date,
}

/// How far a worker's clock may be behind: it is read every tenth of a second.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// Whether this says what second it is, give or take what a worker may be behind.
fn is_now(date: &str) -> bool {
    let date = httpdate::parse_http_date(date).expect("a date as it should be written");
    assert!(date <= SystemTime::now(), "{date:?} is to come");
    date.elapsed()
        .is_ok_and(|age| age < Duration::from_secs(1) + BEHIND_MAX)
}

fn a_response_without_a_date_gets_that_of_its_second(engine: Engine) {
    let origin = Origin::answering(|request| match request.head.target() {
        "/dated" => answer("200 OK", &["Date: Sun, 06 Nov 1994 08:49:37 GMT"], b""),
        _ => answer("200 OK", &[], b""),
    });
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    let first = client.get("/").field("date").map(str::to_owned);
    assert!(is_now(
        first.as_deref().expect("one without a date gets one")
    ));
    eventually("the next second", || {
        let date = client.get("/").field("date").map(str::to_owned);
        assert!(is_now(
            date.as_deref().expect("one without a date gets one")
        ));
        date != first
    });
    let dated = client.get("/dated");
    assert_eq!(dated.field("date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    drop((client, origin));
    proxy.finish();
}

fn our_own_answers_have_a_date(engine: Engine) {
    let origin = Origin::named("a");
    let proxy = Proxy::before(engine, &origin);
    let mut client = Client::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\n\r\n");
    let refusal = client.response().expect_status(400);
    assert!(is_now(refusal.field("date").expect("it has one")));
    drop((client, origin));
    proxy.finish();
}
