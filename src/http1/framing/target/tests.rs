//! Targets and hosts, by table.

use crate::http1::framing::{RequestPlan, request};
use crate::http1::head::{BadHead, RequestHead, field_store};

fn plan_request(text: &str) -> Result<RequestPlan, BadHead> {
    let mut store = field_store();
    let head = RequestHead::parse(text.as_bytes(), &mut store).expect("a well-formed head");
    request(&head)
}

#[test]
fn a_request_names_one_host_in_one_way() {
    let table = [
        ("GET / HTTP/1.1\r\n\r\n", Err(BadHead::MissingHost)),
        ("GET / HTTP/1.0\r\n\r\n", Ok(())),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            Err(BadHead::RepeatedHost),
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n",
            Err(BadHead::RepeatedHost),
        ),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Ok(())),
        ("GET / HTTP/1.1\r\nHost: a.b-c_d:80\r\n\r\n", Ok(())),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Ok(())),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(BadHead::BadHost)),
        (
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            Err(BadHead::BadHost),
        ),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(BadHead::BadHost)),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Err(BadHead::BadHost)),
        (
            "GET / HTTP/1.1\r\nHost: \u{e4}\r\n\r\n",
            Err(BadHead::BadHost),
        ),
        (
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            Err(BadHead::OtherHost),
        ),
        ("GET http://b HTTP/1.0\r\n\r\n", Ok(())),
        ("GET http://b HTTP/1.1\r\n\r\n", Err(BadHead::MissingHost)),
        (
            "GET http://u@b/ HTTP/1.1\r\nHost: b\r\n\r\n",
            Err(BadHead::BadHost),
        ),
        (
            "GET http:///x HTTP/1.1\r\nHost: b\r\n\r\n",
            Err(BadHead::BadHost),
        ),
    ];
    for (text, expected) in table {
        assert_eq!(plan_request(text).map(|_| ()), expected, "{text:?}");
    }
}

#[test]
fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
    let good = [
        "a",
        "A-b_c.",
        "1.2.3.4",
        "a:",
        "a:0",
        "a:65535",
        "[::1]",
        "[::ffff:1.2.3.4]:1",
        "a%2f",
        "!$&'()*+;=~",
    ];
    let bad = [
        ":",
        ":80",
        "a:65536",
        "a:000080",
        "a:+1",
        "a:b",
        "a:1:2",
        "::1",
        "[::1",
        "[]",
        "[::1]]",
        "[::1]a",
        "[a]",
        "[fe80::1%25eth0]",
        "a[::1]",
        "a%",
        "a%2",
        "a%2x",
        "a,b",
        "a@b",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "a\"b",
        "a b",
        "a\tb",
    ];
    let plan = |host: &str| plan_request(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for host in good {
        assert!(plan(host).is_ok(), "{host}");
    }
    for host in bad {
        assert_eq!(plan(host), Err(BadHead::BadHost), "{host}");
    }
}

#[test]
fn an_absolute_target_and_host_name_the_same() {
    let table = [
        ("http://a", "A", true),
        ("http://a", "a:80", true),
        ("http://a:", "a", true),
        ("https://a:443/", "a", true),
        ("http://[::1]:80/", "[::1]", true),
        ("http://a", "a:443", false),
        ("https://a", "a:80", false),
        ("http://a", "b", false),
        ("http://a", "a.", false),
        ("http://a", "", false),
    ];
    for (target, host, good) in table {
        let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let expected = if good {
            Ok(())
        } else {
            Err(BadHead::OtherHost)
        };
        assert_eq!(plan_request(&text).map(|_| ()), expected, "{target} {host}");
    }
}

#[test]
fn a_target_has_the_form_that_its_method_may_have() {
    let table = [
        ("GET /", Ok(())),
        ("GET //x", Ok(())),
        ("OPTIONS *", Ok(())),
        ("OPTIONS /", Ok(())),
        ("GET HTTPS://a/b", Ok(())),
        ("GET http://a?b=://c", Ok(())),
        ("GET *", Err(BadHead::BadTarget)),
        ("OPTIONS **", Err(BadHead::BadTarget)),
        ("GET a", Err(BadHead::BadTarget)),
        ("GET a:80", Err(BadHead::BadTarget)),
        ("GET ?a", Err(BadHead::BadTarget)),
        ("GET ftp://a/b", Err(BadHead::BadTarget)),
        ("CONNECT a:80", Err(BadHead::Connect)),
    ];
    for (line, expected) in table {
        let text = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(plan_request(&text).map(|_| ()), expected, "{line}");
    }
}
