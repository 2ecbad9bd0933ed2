//! `--send-proxy`: backends are told of each connection whose it is, and it stays that client's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::{
    Client, Conversation, Engine, Folder, Origin, Proxy, answer, eventually, get, ok, preface,
    read_to_end, refusing_address, v2,
};

on_both_engines! {
    each_connection_begins_with_its_client,
    connections_are_not_shared_between_clients,
    the_connections_of_a_client_go_with_him,
    a_stale_connection_is_replaced_by_one_with_a_header,
    another_backend_hears_it_too,
    what_a_header_told_is_told_on,
    who_has_no_address_is_unknown,
    a_unix_socket_hears_it_too,
    a_tunnel_begins_with_it_once,
    it_comes_before_anything_of_tcp,
    checks_introduce_themselves,
    one_fastlb_understands_the_other,
}

/// Headers, in the order of their connections.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Notes the header of each connection and answers requests with it.
fn recorder() -> (Origin, Heard) {
    let heard = Heard::default();
    let origin = Origin::start({
        let heard = heard.clone();
        move |conversation| {
            if let Some(header) = note(conversation, &heard) {
                while conversation.request().is_some() {
                    conversation.send(ok(&header));
                }
            }
        }
    });
    (origin, heard)
}

fn note(conversation: &mut Conversation<'_>, heard: &Heard) -> Option<Vec<u8>> {
    let header = preface(conversation)?;
    heard.lock().expect("no holder panics").push(header.clone());
    Some(header)
}

fn line(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip(), destination.ip());
    let (from_port, to_port) = (source.port(), destination.port());
    format!("PROXY TCP4 {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

fn binary(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (source, destination) else {
        panic!("the loopback of IPv4 is meant")
    };
    let (from_port, to_port) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    let ends = [from.ip().octets(), to.ip().octets()].concat();
    v2(0x21, 0x11, &[&ends[..], &from_port, &to_port].concat())
}

/// The headers of both versions that tell of this client.
type Told = fn(SocketAddr, SocketAddr) -> Vec<u8>;
const VERSIONS: [(&str, Told); 2] = [("v1", line), ("v2", binary)];

fn of(client: &mut Client) -> SocketAddr {
    let address = client.wire().writer().local_addr();
    address.expect("it is connected")
}

fn each_connection_begins_with_its_client(engine: Engine) {
    for (version, told) in VERSIONS {
        let (origin, _) = recorder();
        let proxy = Proxy::before_with(engine, &origin, &["--send-proxy", version]);
        for _ in 0..3 {
            let mut client = Client::connect(proxy.address);
            let expected = told(of(&mut client), proxy.address);
            assert_eq!(client.get("/").expect_status(200).body, expected);
            let upload = client.post("/", &[b'.'; 100_000]).expect_status(200);
            assert_eq!(upload.body, expected);
        }
        assert_eq!(origin.accepted(), 3);
        drop(origin);
        proxy.finish();
    }
}

fn connections_are_not_shared_between_clients(engine: Engine) {
    let (origin, _) = recorder();
    let proxy = Proxy::before_with(engine, &origin, &["--send-proxy", "v2"]);
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(proxy.address)).collect();
    for _ in 0..5 {
        for client in &mut clients {
            let expected = binary(of(client), proxy.address);
            assert_eq!(client.get("/").body, expected);
        }
    }
    // A client's own is used again.
    assert_eq!(origin.accepted(), 10);
    drop((clients, origin));
    proxy.finish();
}

fn the_connections_of_a_client_go_with_him(engine: Engine) {
    let (origin, _) = recorder();
    let proxy = Proxy::before_with(engine, &origin, &["--send-proxy", "v1"]);
    let mut stays = Client::connect(proxy.address);
    stays.get("/").expect_status(200);
    for _ in 0..3 {
        Client::connect(proxy.address).get("/").expect_status(200);
    }
    eventually("the others to be closed", || origin.open() == 1);
    stays.get("/").expect_status(200);
    assert_eq!(origin.accepted(), 4);
    drop((stays, origin));
    proxy.finish();
}

fn a_stale_connection_is_replaced_by_one_with_a_header(engine: Engine) {
    let (origin, heard) = recorder();
    let proxy = Proxy::before_with(engine, &origin, &["--send-proxy", "v1"]);
    let mut client = Client::connect(proxy.address);
    let expected = line(of(&mut client), proxy.address);
    for _ in 0..3 {
        assert_eq!(client.get("/").body, expected);
        origin.close_all();
    }
    assert_eq!(*heard.lock().expect("no holder panics"), vec![expected; 3]);
    drop((client, origin));
    proxy.finish();
}

fn another_backend_hears_it_too(engine: Engine) {
    let (_held, refusing) = refusing_address();
    let resetting = Origin::start(|conversation| {
        preface(conversation);
        conversation.head();
        conversation.reset_on_close();
    });
    let (origin, _) = recorder();
    let backends = format!("{refusing},{},{}", resetting.backend(), origin.backend());
    let flags = [
        "--backends",
        &backends,
        "--send-proxy",
        "v1",
        "--eject-after",
        "0",
    ];
    let proxy = Proxy::start(engine, &flags);
    for _ in 0..6 {
        let mut client = Client::connect(proxy.address);
        let expected = line(of(&mut client), proxy.address);
        assert_eq!(client.get("/").expect_status(200).body, expected);
        assert_eq!(client.get("/").expect_status(200).body, expected);
    }
    assert!(resetting.accepted() > 0);
    drop((resetting, origin));
    proxy.finish();
}

fn what_a_header_told_is_told_on(engine: Engine) {
    let accept = [
        "--accept-proxy",
        "--proxy-trusted",
        "127.0.0.1",
        "--send-proxy",
        "v1",
    ];
    let (origin, _) = recorder();
    let proxy = Proxy::before_with(engine, &origin, &accept);
    let own = |client: &mut Client| line(of(client), proxy.address);
    let v6: &[u8] = b"PROXY TCP6 2001:db8::1 ::ffff:c000:201 1 65535\r\n";
    for header in [b"PROXY TCP4 192.0.2.1 198.51.100.7 1111 80\r\n", v6] {
        let mut client = Client::connect(proxy.address);
        client.send([header, get("/").as_bytes()].concat());
        assert_eq!(client.response().body, header);
        assert_eq!(client.get("/").body, header);
    }
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x20, 0, b""),
        v2(0x21, 0x12, &[7; 12]),
    ] {
        let mut client = Client::connect(proxy.address);
        client.send([&header[..], get("/").as_bytes()].concat());
        assert_eq!(client.response().body, own(&mut client));
    }
    drop(origin);
    proxy.finish();
}

fn who_has_no_address_is_unknown(engine: Engine) {
    let folder = Folder::new();
    for (version, expected) in [
        ("v1", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", v2(0x21, 0, b"")),
    ] {
        let path = folder.file(version);
        let (origin, _) = recorder();
        let listen = format!("unix:{path}");
        let flags = ["--listen", &listen, "--send-proxy", version];
        let proxy = Proxy::before_with(engine, &origin, &flags);
        eventually("the socket", || std::fs::exists(&path).unwrap_or(false));
        let mut client = Client::connect_unix(&path);
        assert_eq!(client.get("/").body, expected);
        drop((client, origin));
        proxy.finish();
    }
}

fn a_unix_socket_hears_it_too(engine: Engine) {
    let folder = Folder::new();
    let origin = Origin::start_unix(&folder.file("a"), |conversation| {
        if let Some(header) = preface(conversation) {
            while conversation.request().is_some() {
                conversation.send(ok(&header));
            }
        }
    });
    let proxy = Proxy::before_with(engine, &origin, &["--send-proxy", "v2"]);
    let mut client = Client::connect(proxy.address);
    let expected = binary(of(&mut client), proxy.address);
    assert_eq!(client.get("/").body, expected);
    assert_eq!(client.get("/").body, expected);
    assert_eq!(origin.accepted(), 1);
    drop((client, origin));
    proxy.finish();
}

fn a_tunnel_begins_with_it_once(engine: Engine) {
    const UPGRADE: &str =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    const SWITCH: &str =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    let origin = Origin::start(|conversation| {
        let header = preface(conversation).expect("the proxy introduces its client");
        assert!(conversation.head().is_some());
        conversation.send([SWITCH.as_bytes(), &header].concat());
        let mut word = [0; 4];
        let read = conversation.wire().writer().read_exact(&mut word);
        read.expect("the client speaks");
        conversation.send(word);
    });
    let proxy = Proxy::before_with(engine, &origin, &["--send-proxy", "v1"]);
    let mut client = Client::connect(proxy.address);
    client.send(UPGRADE);
    assert_eq!(
        client.wire().head().expect("the response comes").status(),
        101
    );
    client.send("word");
    let expected = [line(of(&mut client), proxy.address), b"word".to_vec()].concat();
    let mut heard = client.wire().unused().to_vec();
    let mut stream = client.wire().writer();
    read_to_end(&mut stream, |piece| heard.extend_from_slice(piece));
    assert_eq!(heard, expected);
    drop((stream, client, origin));
    proxy.finish();
}

/// The backend hears of the client before he says anything, and what he says comes behind it.
fn it_comes_before_anything_of_tcp(engine: Engine) {
    for (version, told) in VERSIONS {
        let origin = Origin::start(|conversation| {
            let header = preface(conversation).expect("the proxy introduces its client");
            conversation.send(&header);
            let mut stream = conversation.wire().writer();
            let mut heard = Vec::new();
            read_to_end(&mut stream, |piece| heard.extend_from_slice(piece));
            conversation.send(&heard);
        });
        let (_held, refusing) = refusing_address();
        let backends = format!("{refusing},{}", origin.backend());
        let flags = [
            "--mode",
            "tcp",
            "--backends",
            &backends,
            "--send-proxy",
            version,
        ];
        let proxy = Proxy::start(engine, &flags);
        for _ in 0..3 {
            let mut client = TcpStream::connect(proxy.address).expect("the proxy listens");
            let own = client.local_addr().expect("it is connected");
            let expected = told(own, proxy.address);
            let mut header = vec![0; expected.len()];
            client.read_exact(&mut header).expect("the backend answers");
            assert_eq!(header, expected);
            client.write_all(b"all I have").expect("the proxy reads");
            let shut = client.shutdown(std::net::Shutdown::Write);
            shut.expect("it is connected");
            let mut heard = Vec::new();
            read_to_end(&mut client, |piece| heard.extend_from_slice(piece));
            assert_eq!(heard, b"all I have");
        }
        drop(origin);
        proxy.finish();
    }
}

fn checks_introduce_themselves(engine: Engine) {
    for (version, check) in [("v1", "tcp"), ("v1", "http"), ("v2", "tcp"), ("v2", "http")] {
        let heard = Heard::default();
        let origin = Origin::start({
            let heard = heard.clone();
            move |conversation| {
                let peer = conversation.wire().writer().peer_addr();
                let own = conversation.wire().writer().local_addr();
                let Some(header) = note(conversation, &heard) else {
                    return;
                };
                let (Ok(peer), Ok(own)) = (peer, own) else {
                    return;
                };
                let expected = if header[0] == b'P' {
                    line(peer, own)
                } else {
                    v2(0x20, 0, b"")
                };
                assert_eq!(header, expected);
                while conversation.request().is_some() {
                    conversation.send(answer("200 OK", &["Connection: close"], b""));
                }
            }
        });
        let flags = [
            "--send-proxy",
            version,
            "--health",
            check,
            "--health-interval",
            "100ms",
        ];
        let proxy = Proxy::before_with(engine, &origin, &flags);
        eventually("some checks", || {
            heard.lock().expect("no holder panics").len() >= 3
        });
        let requests = origin.requests().len();
        assert_eq!(
            requests > 0,
            check == "http",
            "{requests} requests of {check} checks"
        );
        assert!(!proxy.log().iter().any(|line| line.contains("is down")));
        let exit = proxy.drain();
        exit.expect_clean();
        drop(origin);
    }
}

fn one_fastlb_understands_the_other(engine: Engine) {
    let origin =
        Origin::answering(|request| ok(request.field("x-forwarded-for").unwrap_or("-").as_bytes()));
    let accept = ["--accept-proxy", "--proxy-trusted", "127.0.0.1"];
    let inner = Proxy::before_with(engine, &origin, &accept);
    let address = inner.address.to_string();
    for (mode, version) in [("http", "v1"), ("http", "v2"), ("tcp", "v1"), ("tcp", "v2")] {
        let hop = [
            "--backends",
            &address,
            "--mode",
            mode,
            "--send-proxy",
            version,
        ];
        // Checks come from the outer one itself.
        let health = ["--health", "tcp", "--health-interval", "100ms"];
        let outer = Proxy::start(engine, &[&hop[..], &accept, &health].concat());
        let mut clients = Vec::new();
        for number in 1..5 {
            let mut client = Client::connect(outer.address);
            let header = format!("PROXY TCP4 192.0.2.{number} 198.51.100.7 1111 80\r\n");
            client.send([header, get("/")].concat());
            assert_eq!(client.response().text(), format!("192.0.2.{number}"));
            assert_eq!(client.get("/").text(), format!("192.0.2.{number}"));
            clients.push(client);
        }
        drop(clients);
        let exit = outer.drain();
        exit.expect_clean();
        assert_eq!(exit.cut, 0, "{exit:?}");
    }
    drop(origin);
    inner.finish();
}
