//! The rules that every request passes, each by itself: heads, chunks, and the judge of health.

use divan::{Bencher, black_box};
use fastlb::balance::BackendId;
use fastlb::health::{CheckRules, EjectRules, Event, FleetHealth, News};
use fastlb::http1::chunked::{Decoder, Encoder};
use fastlb::http1::date::Date;
use fastlb::http1::framing::{self, RequestPlan};
use fastlb::http1::head::{RequestHead, ResponseHead, Scan, field_store};
use fastlb::http1::rewrite::{self, Added, Forward, Underscores};

/// What wrk sends.
const SMALL_REQUEST: &[u8] = b"GET /bytes/100 HTTP/1.1\r\nHost: fastlb.test\r\n\r\n";
/// What a browser sends.
const BROWSER_REQUEST: &[u8] = b"GET /articles/2026/11/on-balance?page=2&sort=date HTTP/1.1\r\n\
    Host: www.fastlb.test\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: de,en-US;q=0.7,en;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=essential\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Priority: u=0, i\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\
    X-Backend: origin1\r\n\r\n";
/// The payload of the chunked body that is decoded.
const PAYLOAD_BYTES: usize = 64 * 1024;
/// Backends of the fleet that is judged.
const BACKENDS: usize = 1000;

fn main() {
    divan::main();
}

#[divan::bench]
fn request_head_of_wrk(bencher: Bencher<'_, '_>) {
    request_head(bencher, SMALL_REQUEST);
}

#[divan::bench]
fn request_head_of_a_browser(bencher: Bencher<'_, '_>) {
    request_head(bencher, BROWSER_REQUEST);
}

/// From the bytes that came to the bytes that go on.
fn request_head(bencher: Bencher<'_, '_>, bytes: &[u8]) {
    let forward = Forward {
        peer: Some([127, 0, 0, 1].into()),
        trusted: false,
        authority: "127.0.0.1:80",
        underscores: Underscores::Drop,
        forwarded: false,
        added: Added::default(),
    };
    let mut out = Vec::with_capacity(2 * bytes.len());
    bencher.bench_local(|| {
        out.clear();
        let span = Scan::request().end(black_box(bytes)).expect("it is good");
        assert!(span.is_some(), "it is whole");
        let mut store = field_store();
        let head = RequestHead::parse(bytes, &mut store).expect("it is good");
        let plan = framing::request(&head).expect("it is good");
        rewrite::request(&head, &plan, &forward, &mut out);
        out.len()
    });
}

#[divan::bench]
fn response_head(bencher: Bencher<'_, '_>) {
    let request = plan_of(SMALL_REQUEST);
    let mut out = Vec::with_capacity(2 * RESPONSE.len());
    bencher.bench_local(|| {
        out.clear();
        let span = Scan::response()
            .end(black_box(RESPONSE))
            .expect("it is good");
        assert!(span.is_some(), "it is whole");
        let mut store = field_store();
        let head = ResponseHead::parse(RESPONSE, &mut store).expect("it is good");
        let plan = framing::answer(&head, &request, SMALL_REQUEST).expect("it is good");
        let delivery = framing::deliver(&plan, &request, false);
        let added = Added {
            date: Date::at(784_111_777),
            ..Added::default()
        };
        rewrite::response(&head, &plan, delivery, &request, added, &mut out);
        out.len()
    });
}

fn plan_of(request: &[u8]) -> RequestPlan {
    let mut store = field_store();
    let head = RequestHead::parse(request, &mut store).expect("it is good");
    framing::request(&head).expect("it is good")
}

/// 64 KiB in chunks of this size.
#[divan::bench(args = [16, 1024, 16 * 1024])]
fn decode_chunks(bencher: Bencher<'_, '_>, chunk: usize) {
    let (mut encoder, mut body) = (Encoder::default(), Vec::new());
    for _ in 0..PAYLOAD_BYTES / chunk {
        encoder.lead(chunk, &mut body);
        body.resize(body.len() + chunk, b'.');
    }
    encoder.finish(&mut body);
    bencher
        .counter(divan::counter::BytesCount::new(PAYLOAD_BYTES))
        .with_inputs(|| body.clone())
        .bench_local_refs(|body| {
            let decoded = Decoder::default().decode(body).expect("it is good");
            assert_eq!((decoded.payload, decoded.done), (PAYLOAD_BYTES, true));
        });
}

/// A round of checks that pass, and the look for ejections that are over.
#[divan::bench]
fn judge_a_round_of_checks(bencher: Bencher<'_, '_>) {
    let mut fleet = FleetHealth::new(BACKENDS, CheckRules::default(), EjectRules::default());
    let ids: Vec<BackendId> = (0..BACKENDS).filter_map(BackendId::new).collect();
    let mut now_ms = 0;
    bencher
        .counter(divan::counter::ItemsCount::new(BACKENDS))
        .bench_local(|| {
            now_ms += 2000;
            for &backend in &ids {
                let news = News::CheckPassed;
                black_box(fleet.take(Event { backend, news }, now_ms));
            }
            fleet.advance(now_ms)
        });
}
