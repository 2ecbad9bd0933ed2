//! What heads mean, by table.

use super::{Delivery, Framing, Method, RequestPlan, ResponsePlan, deliver, request, response};
use crate::http1::head::{BadHead, RequestHead, ResponseHead, Version, field_store};
use crate::limits::CONNECTION_BYTES_MAX;

fn plan_request(text: &str) -> Result<RequestPlan, BadHead> {
    let mut store = field_store();
    let head = RequestHead::parse(text.as_bytes(), &mut store).expect("a well-formed head");
    request(&head)
}

/// The plan of a request to `/` with these lines behind its Host.
fn plan_post(version: &str, lines: &[&str]) -> Result<RequestPlan, BadHead> {
    plan_request(&format!(
        "POST / {version}\r\nHost: a\r\n{}\r\n",
        fields(lines)
    ))
}

fn plan_response(line: &str, lines: &[&str], method: Method) -> Result<ResponsePlan, BadHead> {
    let text = format!("{line}\r\n{}\r\n", fields(lines));
    let mut store = field_store();
    let head = ResponseHead::parse(text.as_bytes(), &mut store).expect("a well-formed head");
    response(&head, method)
}

fn fields(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

/// The lines of a request, and what they say of its body.
type RequestBody = (&'static [&'static str], Result<Framing, BadHead>);

const REQUEST_BODIES: [RequestBody; 28] = [
    (&[], Ok(Framing::None)),
    (&["Content-Length: 0"], Ok(Framing::Length(0))),
    (&["content-length:42"], Ok(Framing::Length(42))),
    (&["Content-Length: 00042"], Ok(Framing::Length(42))),
    (
        &["Content-Length: 18446744073709551615"],
        Ok(Framing::Length(u64::MAX)),
    ),
    (&["Transfer-Encoding: chunked"], Ok(Framing::Chunked)),
    (&["TRANSFER-ENCODING:\tChunKed\t"], Ok(Framing::Chunked)),
    (
        &["Content-Length: 18446744073709551616"],
        Err(BadHead::LengthTooLarge),
    ),
    (
        &["Content-Length: 99999999999999999999999"],
        Err(BadHead::LengthTooLarge),
    ),
    (&["Content-Length:"], Err(BadHead::BadLength)),
    (&["Content-Length: +5"], Err(BadHead::BadLength)),
    (&["Content-Length: -5"], Err(BadHead::BadLength)),
    (&["Content-Length: 0x5"], Err(BadHead::BadLength)),
    (&["Content-Length: 5 5"], Err(BadHead::BadLength)),
    (&["Content-Length: 5;"], Err(BadHead::BadLength)),
    (&["Content-Length: \u{663}"], Err(BadHead::BadLength)),
    (&["Content-Length: 5, 5"], Err(BadHead::RepeatedLength)),
    (&["Content-Length: 5,"], Err(BadHead::RepeatedLength)),
    (
        &["Content-Length: 5", "content-length: 5"],
        Err(BadHead::RepeatedLength),
    ),
    (
        &["Content-Length: 5", "Content-Length: 6"],
        Err(BadHead::RepeatedLength),
    ),
    (
        &["Content-Length: 5", "Transfer-Encoding: chunked"],
        Err(BadHead::LengthAndTransferEncoding),
    ),
    (
        &["Transfer-Encoding: chunked", "Content-Length: 0"],
        Err(BadHead::LengthAndTransferEncoding),
    ),
    (&["Transfer-Encoding:"], Err(BadHead::BadTransferEncoding)),
    (
        &["Transfer-Encoding: identity"],
        Err(BadHead::BadTransferEncoding),
    ),
    (
        &["Transfer-Encoding: gzip, chunked"],
        Err(BadHead::BadTransferEncoding),
    ),
    (
        &["Transfer-Encoding: chunked, chunked"],
        Err(BadHead::BadTransferEncoding),
    ),
    (
        &["Transfer-Encoding: \u{a0}chunked"],
        Err(BadHead::BadTransferEncoding),
    ),
    (
        &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        Err(BadHead::BadTransferEncoding),
    ),
];

#[test]
fn a_request_body_is_delimited_in_one_way_or_refused() {
    for (lines, framing) in REQUEST_BODIES {
        let planned = plan_post("HTTP/1.1", lines).map(|plan| plan.framing);
        assert_eq!(planned, framing, "{lines:?}");
    }
    let old = plan_post("HTTP/1.0", &["Transfer-Encoding: chunked"]);
    assert_eq!(old, Err(BadHead::TransferEncodingIn10));
    let old = plan_post("HTTP/1.0", &["Content-Length: 5"]).map(|plan| plan.framing);
    assert_eq!(old, Ok(Framing::Length(5)));
}

#[test]
fn a_connection_is_kept_by_version_and_option() {
    let table: [(&str, &[&str], bool); 12] = [
        ("HTTP/1.1", &[], true),
        ("HTTP/1.1", &["Connection: close"], false),
        ("HTTP/1.1", &["Connection: CLOSE"], false),
        ("HTTP/1.1", &["Connection: foo ,close, bar"], false),
        ("HTTP/1.1", &["Connection: foo", "Connection: close"], false),
        ("HTTP/1.1", &["Connection: keep-alive"], true),
        ("HTTP/1.1", &["Connection: closed"], true),
        ("HTTP/1.1", &["Connection: upgrade"], true),
        ("HTTP/1.0", &[], false),
        ("HTTP/1.0", &["Connection: Keep-Alive"], true),
        ("HTTP/1.0", &["Connection: keep-alive, close"], false),
        ("HTTP/1.0", &["Proxy-Connection: keep-alive"], false),
    ];
    for (version, lines, keep_alive) in table {
        let plan = plan_post(version, lines).unwrap();
        assert_eq!(plan.keep_alive, keep_alive, "{version} {lines:?}");
        let line = format!("{version} 204 No Content");
        let plan = plan_response(&line, lines, Method::Get).unwrap();
        assert_eq!(plan.keep_alive, keep_alive, "{version} {lines:?}");
    }
    let long = format!("Connection: {}", "a".repeat(CONNECTION_BYTES_MAX));
    assert!(plan_post("HTTP/1.1", &[&long]).is_ok());
    let twice = plan_post("HTTP/1.1", &[&long, "Connection: a"]);
    assert_eq!(twice, Err(BadHead::ConnectionTooLong));
}

#[test]
fn an_expectation_counts_for_a_body_of_a_1_1_client() {
    let table: [(&str, &[&str], Result<bool, BadHead>); 8] = [
        (
            "HTTP/1.1",
            &["Expect: 100-continue", "Content-Length: 5"],
            Ok(true),
        ),
        (
            "HTTP/1.1",
            &["Expect: 100-Continue", "Transfer-Encoding: chunked"],
            Ok(true),
        ),
        (
            "HTTP/1.1",
            &["Expect: 100-continue", "Content-Length: 0"],
            Ok(false),
        ),
        ("HTTP/1.1", &["Expect: 100-continue"], Ok(false)),
        ("HTTP/1.1", &["Expect: ,", "Content-Length: 5"], Ok(false)),
        (
            "HTTP/1.0",
            &["Expect: 100-continue", "Content-Length: 5"],
            Ok(false),
        ),
        (
            "HTTP/1.1",
            &["Expect: 200-ok"],
            Err(BadHead::BadExpectation),
        ),
        (
            "HTTP/1.1",
            &["Expect: 100-continue, x"],
            Err(BadHead::BadExpectation),
        ),
    ];
    for (version, lines, expects) in table {
        let planned = plan_post(version, lines).map(|plan| plan.expects_continue);
        assert_eq!(planned, expects, "{version} {lines:?}");
    }
}

#[test]
fn hops_are_a_number_that_is_there_once() {
    let plan = |method: &str, lines: &[&str]| {
        plan_request(&format!(
            "{method} / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            fields(lines)
        ))
    };
    type Hops = Result<Option<u32>, BadHead>;
    let table: [(&str, &[&str], Hops); 9] = [
        ("TRACE", &[], Ok(None)),
        ("TRACE", &["Max-Forwards: 2"], Ok(Some(1))),
        (
            "OPTIONS",
            &["Max-Forwards: 4294967296"],
            Ok(Some(u32::MAX - 1)),
        ),
        ("GET", &["Max-Forwards: x"], Ok(None)),
        ("TRACE", &["Max-Forwards: 0"], Err(BadHead::LastTrace)),
        ("OPTIONS", &["Max-Forwards: 0"], Err(BadHead::LastOptions)),
        ("OPTIONS", &["Max-Forwards:"], Err(BadHead::BadMaxForwards)),
        ("TRACE", &["Max-Forwards: +1"], Err(BadHead::BadMaxForwards)),
        (
            "TRACE",
            &["Max-Forwards: 1", "Max-Forwards: 1"],
            Err(BadHead::BadMaxForwards),
        ),
    ];
    for (method, lines, expected) in table {
        let planned = plan(method, lines).map(|plan| plan.max_forwards);
        assert_eq!(planned, expected, "{method} {lines:?}");
    }
    assert_eq!(
        plan("TRACE", &["Content-Length: 1"]),
        Err(BadHead::TraceBody)
    );
    assert!(plan("TRACE", &["Content-Length: 0"]).is_ok());
}

#[test]
fn trailers_are_taken_where_both_fields_say_so() {
    let table: [(&str, &[&str], bool); 6] = [
        ("HTTP/1.1", &["TE: trailers", "Connection: TE"], true),
        (
            "HTTP/1.1",
            &["TE: gzip;q=0, Trailers", "Connection: close, te"],
            true,
        ),
        ("HTTP/1.1", &["TE: trailers"], false),
        ("HTTP/1.1", &["TE: trailers;q=1", "Connection: TE"], false),
        ("HTTP/1.1", &["Connection: TE"], false),
        ("HTTP/1.0", &["TE: trailers", "Connection: TE"], false),
    ];
    for (version, lines, takes) in table {
        let plan = plan_post(version, lines).unwrap();
        assert_eq!(plan.takes_trailers, takes, "{version} {lines:?}");
    }
}

#[test]
fn methods_are_case_sensitive() {
    assert_eq!(Method::from("GET"), Method::Get);
    assert_eq!(Method::from("get"), Method::Other);
    let again = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"];
    assert!(
        again
            .into_iter()
            .all(|name| Method::from(name).is_idempotent())
    );
    let safe = ["GET", "HEAD", "OPTIONS", "TRACE"];
    assert!(safe.into_iter().all(|name| Method::from(name).is_safe()));
    let changing = ["PUT", "DELETE", "POST", "get"];
    assert!(
        !changing
            .into_iter()
            .any(|name| Method::from(name).is_safe())
    );
    let once = ["POST", "PATCH", "CONNECT", "get", "LOCK"];
    assert!(
        !once
            .into_iter()
            .any(|name| Method::from(name).is_idempotent())
    );
}

const OK: &str = "HTTP/1.1 200 OK";
const LENGTH: &[&str] = &["Content-Length: 5"];
const CHUNKED: &[&str] = &["Transfer-Encoding: chunked"];

/// Status line, lines and the request's method; then the framing and the length that passes on.
type ResponseBody = (
    &'static str,
    &'static [&'static str],
    Method,
    Framing,
    Option<u64>,
);

const RESPONSE_BODIES: [ResponseBody; 15] = [
    (OK, LENGTH, Method::Get, Framing::Length(5), Some(5)),
    (OK, CHUNKED, Method::Get, Framing::Chunked, None),
    (OK, &[], Method::Get, Framing::Close, None),
    ("HTTP/1.0 200 OK", &[], Method::Get, Framing::Close, None),
    (OK, LENGTH, Method::Head, Framing::None, Some(5)),
    (OK, CHUNKED, Method::Head, Framing::None, None),
    (OK, &[], Method::Head, Framing::None, None),
    (
        "HTTP/1.1 304 Not Modified",
        LENGTH,
        Method::Get,
        Framing::None,
        Some(5),
    ),
    (
        "HTTP/1.1 304 Not Modified",
        CHUNKED,
        Method::Get,
        Framing::None,
        None,
    ),
    (
        "HTTP/1.1 204 No Content",
        LENGTH,
        Method::Get,
        Framing::None,
        None,
    ),
    (
        "HTTP/1.1 204 No Content",
        CHUNKED,
        Method::Get,
        Framing::None,
        None,
    ),
    (
        "HTTP/1.1 204 No Content",
        &[],
        Method::Get,
        Framing::None,
        None,
    ),
    (
        "HTTP/1.1 100 Continue",
        LENGTH,
        Method::Post,
        Framing::None,
        None,
    ),
    (
        "HTTP/1.1 103 Early Hints",
        &[],
        Method::Get,
        Framing::None,
        None,
    ),
    (
        "HTTP/1.1 205 Reset Content",
        &["Content-Length: 0"],
        Method::Get,
        Framing::Length(0),
        Some(0),
    ),
];

#[test]
fn a_response_body_is_delimited_by_request_status_and_fields() {
    for (line, lines, method, framing, length_field) in RESPONSE_BODIES {
        let plan = plan_response(line, lines, method).unwrap();
        assert_eq!(
            (plan.framing, plan.length_field),
            (framing, length_field),
            "{line} {lines:?}"
        );
        assert_eq!(plan.is_interim(), plan.status < 200);
        let bodiless = plan.is_interim() || plan.status == 204;
        let lives = plan.version == Version::Http11 && framing != Framing::Close;
        let lives = lives && (lines.is_empty() || !bodiless);
        assert_eq!(plan.keep_alive, lives, "{line} {lines:?}");
    }
}

#[test]
fn a_response_that_can_be_read_in_two_ways_is_refused() {
    let table: [(&str, &[&str], BadHead); 6] = [
        (
            "HTTP/1.1 200 OK",
            &["Content-Length: 5", "Transfer-Encoding: chunked"],
            BadHead::LengthAndTransferEncoding,
        ),
        (
            "HTTP/1.1 200 OK",
            &["Content-Length: 5", "Content-Length: 5"],
            BadHead::RepeatedLength,
        ),
        (
            "HTTP/1.1 200 OK",
            &["Transfer-Encoding: gzip"],
            BadHead::BadTransferEncoding,
        ),
        (
            "HTTP/1.0 200 OK",
            &["Transfer-Encoding: chunked"],
            BadHead::TransferEncodingIn10,
        ),
        (
            "HTTP/1.1 304 Not Modified",
            &["Content-Length: x"],
            BadHead::BadLength,
        ),
        (
            "HTTP/1.1 101 Switching Protocols",
            &[],
            BadHead::SwitchingProtocols,
        ),
    ];
    for (line, lines, bad) in table {
        assert_eq!(
            plan_response(line, lines, Method::Get),
            Err(bad),
            "{line} {lines:?}"
        );
    }
}

#[test]
fn a_body_goes_to_the_client_in_a_framing_that_he_knows() {
    use Framing::{Chunked, Close, Length, None};
    use Version::{Http10, Http11};
    let table = [
        (None, Http11, None, true),
        (None, Http10, None, true),
        (Length(5), Http11, Length(5), true),
        (Length(5), Http10, Length(5), true),
        (Chunked, Http11, Chunked, true),
        (Chunked, Http10, Close, false),
        (Close, Http11, Chunked, true),
        (Close, Http10, Close, false),
    ];
    for (framing, version, delivered, keep_alive) in table {
        let plan = ResponsePlan {
            status: 200,
            version: Http11,
            framing,
            keep_alive: false,
            length_field: Option::None,
            names_fields: false,
        };
        let request = RequestPlan {
            method: Method::Get,
            version,
            framing: None,
            keep_alive: true,
            expects_continue: false,
            names_fields: false,
            upgrade: false,
            takes_trailers: version == Http11,
            authenticates: false,
            max_forwards: Option::None,
        };
        let trailers = framing == Chunked && version == Http11;
        let expected = Delivery {
            framing: delivered,
            keep_alive,
            trailers,
        };
        assert_eq!(deliver(&plan, &request, false), expected);
        let parting = Delivery {
            framing: delivered,
            keep_alive: false,
            trailers,
        };
        assert_eq!(deliver(&plan, &request, true), parting);
        let unwilling = RequestPlan {
            keep_alive: false,
            ..request
        };
        assert_eq!(deliver(&plan, &unwilling, false), parting);
    }
}
