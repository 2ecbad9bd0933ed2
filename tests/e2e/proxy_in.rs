//! `--accept-proxy`: the client is whom the header names, and nobody is served before it came.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{
    Client, Engine, Folder, Origin, PATIENCE, Pattern, Proxy, answer, eventually, expect_reset,
    get, now, ok, pause, read_to_end, v2,
};

on_both_engines! {
    a_header_names_the_client,
    without_a_client_it_is_the_peer,
    a_header_may_come_alone_and_in_pieces,
    what_comes_behind_a_header_is_the_stream,
    a_bad_header_is_refused,
    an_untrusted_sender_is_refused,
    who_sends_no_header_is_cut_in_time,
    who_leaves_before_the_header_leaves_nothing,
    a_missing_header_does_not_hold_the_drain,
    a_header_on_its_way_is_waited_for_when_it_drains,
    the_client_of_the_header_is_whom_trust_is_about,
    each_listener_has_its_own_rule,
    a_header_that_is_not_demanded_is_not_looked_for,
    over_a_unix_socket_nobody_needs_trust,
    a_connection_of_tcp_begins_behind_the_header,
    a_connection_of_tcp_has_no_backend_before_the_header,
}

const ACCEPT: [&str; 3] = ["--accept-proxy", "--proxy-trusted", "127.0.0.0/8"];
const V1: &str = "PROXY TCP4 192.0.2.1 198.51.100.7 1111 80\r\n";
/// The same in version 2, behind its length.
const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0x04, 0x57, 0, 80];

fn accepting(engine: Engine, origin: &Origin, options: &[&str]) -> Proxy {
    Proxy::before_with(engine, origin, &[&ACCEPT[..], options].concat())
}

/// Says whom the proxy takes for the client.
fn witness() -> Origin {
    Origin::answering(|request| ok(request.field("x-forwarded-for").unwrap_or("-").as_bytes()))
}

/// Sends `header` with a request, and then another one: both are of the same client.
#[track_caller]
fn expect_client(proxy: &Proxy, header: &[u8], expected: &str) {
    let mut client = Client::connect(proxy.address);
    client.send([header, get("/").as_bytes()].concat());
    let name = header.escape_ascii();
    let first = client.response().expect_status(200);
    assert_eq!(first.text(), expected, "{name}");
    assert_eq!(client.get("/").text(), expected, "{name}");
}

fn a_header_names_the_client(engine: Engine) {
    let origin = witness();
    let proxy = accepting(engine, &origin, &[]);
    let v6 = [[0x20; 16], [0xfe; 16]].concat();
    let tlvs = [&V4[..], b"\x04\0\0", b"\xea\0\x02hi"].concat();
    let many_tlvs = [&V4[..], &b"\x04\0\0".repeat(1_000)].concat();
    let of_v6 = "2020:2020:2020:2020:2020:2020:2020:2020";
    let table = [
        (V1.as_bytes().to_vec(), "192.0.2.1"),
        (
            b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(),
            "2001:db8::1",
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.9 ::ffff:7f00:1 1 2\r\n".to_vec(),
            "192.0.2.9",
        ),
        (v2(0x21, 0x11, &V4), "192.0.2.1"),
        (v2(0x21, 0x21, &[&v6[..], &[0; 4]].concat()), of_v6),
        (v2(0x21, 0x11, &tlvs), "192.0.2.1"),
        (v2(0x21, 0x11, &many_tlvs), "192.0.2.1"),
    ];
    for (header, expected) in table {
        expect_client(&proxy, &header, expected);
    }
    drop(origin);
    proxy.finish();
}

fn without_a_client_it_is_the_peer(engine: Engine) {
    let origin = witness();
    let proxy = accepting(engine, &origin, &[]);
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.1 198.51.100.7 1111 80\r\n".to_vec(),
        b"PROXY TCP6 :: ::1 1111 80\r\n".to_vec(),
        b"PROXY TCP6 ::ffff:0.0.0.0 2001:db8::1 1111 80\r\n".to_vec(),
        b"PROXY TCP4 0.0.0.0 198.51.100.7 1111 80\r\n".to_vec(),
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &V4),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x12, &V4),
        v2(0x21, 0x31, &[0; 216]),
    ];
    for header in headers {
        expect_client(&proxy, &header, "127.0.0.1");
    }
    drop(origin);
    proxy.finish();
}

fn a_header_may_come_alone_and_in_pieces(engine: Engine) {
    let origin = witness();
    let proxy = accepting(engine, &origin, &[]);
    for header in [V1.as_bytes().to_vec(), v2(0x21, 0x11, &V4)] {
        let mut client = Client::connect(proxy.address);
        client.send(&header);
        pause(Duration::from_millis(50));
        assert_eq!(client.get("/").text(), "192.0.2.1");

        let mut client = Client::connect(proxy.address);
        for byte in [&header[..], get("/").as_bytes()].concat() {
            client.send([byte]);
            pause(Duration::from_millis(1));
        }
        assert_eq!(client.response().text(), "192.0.2.1");
        // The empty line before a request is no request, wherever it stands.
        let mut client = Client::connect(proxy.address);
        client.send([&header[..], b"\r\n"].concat());
        pause(Duration::from_millis(50));
        assert_eq!(client.get("/").text(), "192.0.2.1");
    }
    drop(origin);
    proxy.finish();
}

fn what_comes_behind_a_header_is_the_stream(engine: Engine) {
    let origin = Origin::answering(|request| {
        let client = request.field("x-forwarded-for").unwrap_or("-");
        answer("200 OK", &[&format!("X-Client: {client}")], &request.body)
    });
    let proxy = accepting(engine, &origin, &[]);
    let body = Pattern::new().whole(300_000);
    let length = body.len();
    let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let mut client = Client::connect(proxy.address);
    let pipelined = [V1, &get("/1"), &get("/2"), &post].concat();
    client.send([pipelined.as_bytes(), &body[..], get("/3").as_bytes()].concat());
    let answers: Vec<_> = (0..4)
        .map(|_| client.response().expect_status(200))
        .collect();
    let of_header =
        |answer: &crate::support::Message| answer.field("x-client") == Some("192.0.2.1");
    assert!(answers.iter().all(of_header));
    assert!(answers[2].body == body, "the body is not what was sent");
    let targets: Vec<_> = origin
        .requests()
        .iter()
        .map(|r| r.head.target().to_owned())
        .collect();
    assert_eq!(targets, ["/1", "/2", "/", "/3"]);
    drop((client, origin));
    proxy.finish();
}

fn a_bad_header_is_refused(engine: Engine) {
    let origin = witness();
    let proxy = accepting(engine, &origin, &["--log-level", "debug"]);
    let mut wrong_sum = V4.to_vec();
    wrong_sum.extend(b"\x03\0\x04nope");
    let table = [
        (get("/").into_bytes(), "no PROXY protocol header"),
        (
            b"\x16\x03\x01\x02\0\x01".to_vec(),
            "no PROXY protocol header",
        ),
        (V1.replace("\r\n", "\n").into_bytes(), "bad end of line"),
        (V1.replace("TCP4", "TCP5").into_bytes(), "unknown protocol"),
        (V1.replace("192", "0192").into_bytes(), "bad address"),
        (V1.replace("80\r", "080\r").into_bytes(), "bad port"),
        (V1.replace("80\r", "80 \r").into_bytes(), "bad fields"),
        (b"PROXY UNKNOWN ".repeat(8), "too long"),
        (v2(0x11, 0x11, &V4), "unknown version"),
        (v2(0x22, 0x11, &V4), "unknown command"),
        (v2(0x21, 0x51, &V4), "unknown family"),
        (v2(0x21, 0x11, &V4[1..]), "no room for its addresses"),
        (
            v2(0x21, 0x11, &[&V4[..], b"\x04\0\x09"].concat()),
            "bad TLV",
        ),
        (v2(0x21, 0x11, &wrong_sum), "bad checksum"),
        (v2(0x21, 0x00, &[0; 5_000])[..100].to_vec(), "too long"),
    ];
    for (header, reason) in table {
        let mut client = TcpStream::connect(proxy.address).expect("the proxy listens");
        let patient = client.set_read_timeout(Some(PATIENCE));
        patient.expect("the time is not zero");
        client.write_all(&header).expect("the proxy reads");
        expect_reset(&mut client);
        let said = format!("bad PROXY header ({reason}), PROXY header");
        eventually(&said, || {
            proxy.log().iter().any(|line| line.contains(&said))
        });
    }
    assert_eq!(origin.accepted(), 0);
    drop(origin);
    proxy.finish();
}

fn an_untrusted_sender_is_refused(engine: Engine) {
    let origin = witness();
    let trusted = "192.0.2.0/24,2001:db8::/32";
    let flags = [
        "--accept-proxy",
        "--proxy-trusted",
        trusted,
        "--log-level",
        "debug",
    ];
    let proxy = Proxy::before_with(engine, &origin, &flags);
    for header in [V1.as_bytes().to_vec(), v2(0x20, 0, b""), Vec::new()] {
        // The reset may come before the word, or before the connection is known to stand: whoever
        // comes first hears of it.
        let Ok(mut client) = TcpStream::connect(proxy.address) else {
            continue;
        };
        let patient = client.set_read_timeout(Some(PATIENCE));
        patient.expect("the time is not zero");
        let sent = client.write_all(&header);
        let end = client.read(&mut [0; 16]).map_err(|error| error.kind());
        let told = end == Err(ErrorKind::ConnectionReset);
        assert!(told || sent.is_err() && end == Ok(0), "{sent:?}, {end:?}");
    }
    let said = |line: &String| line.contains("untrusted sender, PROXY header");
    eventually("the reasons", || {
        proxy.log().iter().filter(|line| said(line)).count() == 3
    });
    assert_eq!(origin.accepted(), 0);
    drop(origin);
    proxy.finish();
}

/// Neither silence nor a trickle, of which each byte is right, holds a connection for long.
fn who_sends_no_header_is_cut_in_time(engine: Engine) {
    const SOONEST: Duration = Duration::from_millis(2_990);
    const LATEST: Duration = Duration::from_secs(10);
    let origin = witness();
    let proxy = accepting(engine, &origin, &["--log-level", "debug"]);
    let started = now();
    let mut silent = Client::connect(proxy.address);
    let mut partial = Client::connect(proxy.address);
    partial.send(&v2(0x21, 0x11, &V4)[..20]);
    let mut trickling = Client::connect(proxy.address);
    for byte in [V1.as_bytes(), &[b' '; 60]].concat().iter().take(45) {
        if trickling.wire().try_send(&[*byte]).is_err() || trickling.wire().has_input() {
            break;
        }
        pause(Duration::from_millis(100));
    }
    for client in [&mut silent, &mut partial, &mut trickling] {
        client.expect_close();
        let took = started.elapsed();
        assert!((SOONEST..LATEST).contains(&took), "{took:?}");
    }
    let said = |line: &String| line.contains("PROXY header timed out");
    eventually("the reasons", || {
        proxy.log().iter().filter(|line| said(line)).count() == 3
    });
    assert_eq!(origin.accepted(), 0);
    drop((silent, partial, trickling, origin));
    proxy.finish();
}

fn who_leaves_before_the_header_leaves_nothing(engine: Engine) {
    let origin = witness();
    let proxy = accepting(engine, &origin, &[]);
    for said in [&b""[..], b"PROXY TC", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"] {
        let client = Client::connect(proxy.address);
        client.send(said);
        drop(client);
        let client = Client::connect(proxy.address);
        client.send(said);
        client.reset_on_close();
        drop(client);
        let mut client = Client::connect(proxy.address);
        client.send(said);
        client.half_close();
        client.expect_close();
    }
    assert_eq!(origin.accepted(), 0);
    drop(origin);
    proxy.finish();
}

fn a_missing_header_does_not_hold_the_drain(engine: Engine) {
    let origin = witness();
    let proxy = accepting(engine, &origin, &[]);
    let client = Client::connect(proxy.address);
    proxy.wait_extra_descriptors(1);
    let started = now();
    let exit = proxy.drain();
    exit.expect_clean();
    assert_eq!(exit.cut, 0, "{exit:?}");
    let took = started.elapsed();
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    drop((client, origin));
}

fn a_header_on_its_way_is_waited_for_when_it_drains(engine: Engine) {
    let origin = witness();
    let proxy = accepting(engine, &origin, &[]);
    let mut client = Client::connect(proxy.address);
    client.send("PROXY ");
    proxy.wait_extra_descriptors(1);
    proxy.signal("TERM");
    eventually("the drain to begin", || {
        TcpStream::connect(proxy.address).is_err()
    });
    client.send([&V1[6..], &get("/")].concat());
    assert_eq!(client.response().text(), "192.0.2.1");
    let exit = proxy.wait_exit();
    exit.expect_clean();
    assert_eq!(exit.cut, 0, "{exit:?}");
    drop((client, origin));
}

fn the_client_of_the_header_is_whom_trust_is_about(engine: Engine) {
    let origin = witness();
    let proxy = accepting(engine, &origin, &["--trusted", "192.0.2.0/24"]);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.5\r\n\r\n";
    let table = [
        (V1.to_owned(), "203.0.113.5, 192.0.2.1"),
        (V1.replace("192.0.2", "192.0.3"), "192.0.3.1"),
        // The peer itself is not trusted, only taken a header from.
        ("PROXY UNKNOWN\r\n".to_owned(), "127.0.0.1"),
    ];
    for (header, expected) in table {
        let mut client = Client::connect(proxy.address);
        client.send([&header, request].concat());
        assert_eq!(client.response().text(), expected);
    }
    drop(origin);
    proxy.finish();
}

fn each_listener_has_its_own_rule(engine: Engine) {
    let origin = witness();
    let flags = [
        "--listen",
        "127.0.0.2:0,proxy",
        "--proxy-trusted",
        "127.0.0.1",
    ];
    let proxy = Proxy::before_with(engine, &origin, &flags);
    let addresses = proxy.addresses(2);
    let mut plain = Client::connect(addresses[0]);
    assert_eq!(plain.get("/").text(), "127.0.0.1");
    let mut demanding = Client::connect(addresses[1]);
    demanding.send([V1, &get("/")].concat());
    assert_eq!(demanding.response().text(), "192.0.2.1");
    let mut without = Client::connect(addresses[1]);
    without.send(get("/"));
    without.expect_close();
    drop((plain, demanding, without, origin));
    proxy.finish();
}

fn a_header_that_is_not_demanded_is_not_looked_for(engine: Engine) {
    let origin = witness();
    let proxy = Proxy::before(engine, &origin);
    for header in [V1.as_bytes().to_vec(), v2(0x21, 0x11, &V4)] {
        let mut client = Client::connect(proxy.address);
        client.send([&header[..], get("/").as_bytes()].concat());
        client.response().expect_status(400);
        client.expect_close();
    }
    assert_eq!(origin.accepted(), 0);
    drop(origin);
    proxy.finish();
    // What a connection of TCP carries is not looked at at all.
    let origin = Origin::start(|conversation| {
        let mut heard = vec![0; V1.len()];
        let read = conversation.wire().writer().read_exact(&mut heard);
        read.expect("the proxy sends it");
        assert_eq!(heard, V1.as_bytes());
        conversation.send("well");
    });
    let proxy = Proxy::before_with(engine, &origin, &["--mode", "tcp"]);
    let mut client = TcpStream::connect(proxy.address).expect("the proxy listens");
    client.write_all(V1.as_bytes()).expect("the proxy reads");
    let mut heard = Vec::new();
    read_to_end(&mut client, |piece| heard.extend_from_slice(piece));
    assert_eq!(heard, b"well");
    drop((client, origin));
    proxy.finish();
}

fn over_a_unix_socket_nobody_needs_trust(engine: Engine) {
    let folder = Folder::new();
    let path = folder.file("door");
    let origin = witness();
    let listen = format!("unix:{path},mode=600,proxy");
    let proxy = Proxy::before_with(engine, &origin, &["--listen", &listen]);
    eventually("the socket", || std::fs::exists(&path).unwrap_or(false));
    for (header, expected) in [(V1, "192.0.2.1"), ("PROXY UNKNOWN\r\n", "-")] {
        let mut client = Client::connect_unix(&path);
        client.send([header, &get("/")].concat());
        assert_eq!(client.response().text(), expected);
    }
    drop(origin);
    proxy.finish();
}

fn a_connection_of_tcp_begins_behind_the_header(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let mut stream = conversation.wire().writer();
        let mut heard = Vec::new();
        read_to_end(&mut stream, |piece| heard.extend_from_slice(piece));
        conversation.send(&heard);
    });
    let proxy = accepting(engine, &origin, &["--mode", "tcp"]);
    let said = Pattern::new().whole(300_000);
    for pieces in [1, 40] {
        for header in [V1.as_bytes().to_vec(), v2(0x21, 0x11, &V4)] {
            let mut client = TcpStream::connect(proxy.address).expect("the proxy listens");
            client.set_nodelay(true).expect("it is connected");
            let all = [&header[..], &said].concat();
            let (first, rest) = all.split_at(header.len() + 10);
            for piece in first.chunks(first.len().div_ceil(pieces)) {
                client.write_all(piece).expect("the proxy reads");
                if pieces > 1 {
                    pause(Duration::from_millis(1));
                }
            }
            client.write_all(rest).expect("the proxy reads");
            let shut = client.shutdown(std::net::Shutdown::Write);
            shut.expect("it is connected");
            let mut heard = Vec::new();
            read_to_end(&mut client, |piece| heard.extend_from_slice(piece));
            assert!(heard == said, "{} bytes came back", heard.len());
        }
    }
    drop(origin);
    proxy.finish();
}

/// Also where the backend would speak first.
fn a_connection_of_tcp_has_no_backend_before_the_header(engine: Engine) {
    let origin = Origin::start(|conversation| {
        conversation.send("220 ready\r\n");
        conversation.wait_until_closed();
    });
    let proxy = accepting(engine, &origin, &["--mode", "tcp"]);
    let mut client = TcpStream::connect(proxy.address).expect("the proxy listens");
    let (most, last) = V1.split_at(V1.len() - 1);
    client.write_all(most.as_bytes()).expect("the proxy reads");
    pause(Duration::from_millis(200));
    assert_eq!(origin.accepted(), 0);
    client.write_all(last.as_bytes()).expect("the proxy reads");
    let mut greeting = [0; 11];
    client
        .read_exact(&mut greeting)
        .expect("the backend speaks");
    assert_eq!(&greeting, b"220 ready\r\n");
    // A header that is refused is a reset here too.
    let mut bad = TcpStream::connect(proxy.address).expect("the proxy listens");
    bad.write_all(b"EHLO\r\n").expect("the proxy reads");
    expect_reset(&mut bad);
    assert_eq!(origin.accepted(), 1);
    drop((client, bad, origin));
    proxy.finish();
}
