//! WebSocket (RFC 6455) as programs speak it: both ends are a library that checks what it is sent.

use std::net::TcpStream;
use std::thread;

use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Error, Message, WebSocket};

use crate::support::{Client, Conversation, Engine, Origin, Pattern, Proxy};

on_both_engines! {
    messages_of_any_length_come_back,
    fragments_come_back_with_pings_between_them,
    large_messages_go_both_ways_at_once,
    pings_are_answered_from_either_side,
    either_side_closes_with_a_reason,
    many_talk_at_once,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn messages_of_any_length_come_back(engine: Engine) {
    let origin = Origin::start(echo);
    let proxy = Proxy::before(engine, &origin);
    let mut socket = connect(&proxy);
    // About where the frame's head grows, and the buffers of all who stand between.
    let lengths = [0, 1, 125, 126, 65_535, 65_536, 65_537, MIB, 8 * MIB + 1];
    for length in lengths {
        let message = Message::binary(Pattern::new().whole(length));
        socket.send(message.clone()).expect("it is sent");
        assert!(hear(&mut socket) == message, "{length} bytes");
    }
    let text = Message::text("grüße ".repeat(300_000));
    socket.send(text.clone()).expect("it is sent");
    assert!(hear(&mut socket) == text);
    close(socket);
    drop(origin);
    proxy.finish();
}

fn fragments_come_back_with_pings_between_them(engine: Engine) {
    const LENGTH: u64 = 5 * MIB + 3;
    let origin = Origin::start(|conversation| {
        let mut socket = accept(conversation);
        let whole = hear(&mut socket).into_data();
        send_in_pieces(&mut socket, &whole, 1_000_003);
        wait_closed(&mut socket);
    });
    for bytes in [100_000, 65_536, 3 * MIB as usize] {
        let proxy = Proxy::before(engine, &origin);
        let mut socket = connect(&proxy);
        let whole = Pattern::new().whole(LENGTH);
        send_in_pieces(&mut socket, &whole, bytes);
        assert!(hear(&mut socket) == Message::binary(whole), "by {bytes}");
        close(socket);
        proxy.finish();
    }
    drop(origin);
}

fn large_messages_go_both_ways_at_once(engine: Engine) {
    const LENGTHS: [u64; 4] = [6 * MIB, 1, 9 * MIB + 7, 3 * MIB];
    /// Sends all of them while all of them come.
    fn exchange(socket: &mut Socket, role: Role) {
        let stream = socket.get_ref().try_clone();
        let stream = stream.expect("there are descriptors left");
        let sending = thread::spawn(move || {
            // Of the library one value reads and writes in turns; this one only writes.
            let mut writer = WebSocket::from_raw_socket(stream, role, None);
            for length in LENGTHS {
                let message = Message::binary(Pattern::new().whole(length));
                writer.send(message).expect("it is sent");
            }
        });
        for length in LENGTHS {
            let message = Message::binary(Pattern::new().whole(length));
            assert!(hear(socket) == message, "{length} bytes");
        }
        sending.join().expect("all of it is sent");
    }
    let origin = Origin::start(|conversation| {
        let mut socket = accept(conversation);
        exchange(&mut socket, Role::Server);
        wait_closed(&mut socket);
    });
    let proxy = Proxy::before(engine, &origin);
    let mut socket = connect(&proxy);
    exchange(&mut socket, Role::Client);
    close(socket);
    drop(origin);
    proxy.finish();
}

fn pings_are_answered_from_either_side(engine: Engine) {
    let origin = Origin::start(|conversation| {
        let mut socket = accept(conversation);
        assert_eq!(hear(&mut socket), Message::text("ping me"));
        socket.send(ping("from the backend")).expect("it is sent");
        let answer = socket.read().expect("it is answered");
        assert_eq!(answer, pong("from the backend"));
        socket.send(Message::text("well")).expect("it is sent");
        wait_closed(&mut socket);
    });
    let proxy = Proxy::before(engine, &origin);
    let mut socket = connect(&proxy);
    socket.send(ping("from the client")).expect("it is sent");
    let answer = socket.read().expect("it is answered");
    assert_eq!(answer, pong("from the client"));
    socket.send(Message::text("ping me")).expect("it is sent");
    assert_eq!(hear(&mut socket), Message::text("well"));
    close(socket);
    drop(origin);
    proxy.finish();
}

fn either_side_closes_with_a_reason(engine: Engine) {
    let reason = |code, reason: &'static str| CloseFrame {
        code,
        reason: reason.into(),
    };
    let away = reason(CloseCode::Away, "the page is left");
    let over = reason(CloseCode::Library(4000), "that was all");
    let origin = Origin::start({
        let (away, over) = (away.clone(), over.clone());
        move |conversation| {
            let mut socket = accept(conversation);
            match socket.read().expect("the client speaks") {
                Message::Close(said) => assert_eq!(said.as_ref(), Some(&away)),
                _ => socket.close(Some(over.clone())).expect("it is sent"),
            }
            wait_closed(&mut socket);
        }
    });
    let proxy = Proxy::before(engine, &origin);
    let mut socket = connect(&proxy);
    socket.close(Some(away.clone())).expect("it is sent");
    let said = socket.read().expect("it is answered");
    assert_eq!(said, Message::Close(Some(away)));
    wait_closed(&mut socket);
    drop(socket);
    let mut socket = connect(&proxy);
    socket.send(Message::text("enough?")).expect("it is sent");
    let said = socket.read().expect("it is answered");
    assert_eq!(said, Message::Close(Some(over)));
    wait_closed(&mut socket);
    drop((socket, origin));
    proxy.finish();
}

fn many_talk_at_once(engine: Engine) {
    const CLIENTS: u64 = 24;
    const MESSAGES: u64 = 30;
    let origin = Origin::start(echo);
    let proxy = Proxy::before(engine, &origin);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut socket = connect(proxy);
                for number in 0..MESSAGES {
                    // No two of a moment are the same.
                    let length = (client * 977 + number * 7_919) % (160 * KIB);
                    let message = Message::binary(Pattern::new().whole(length));
                    socket.send(message.clone()).expect("it is sent");
                    assert!(hear(&mut socket) == message, "{length} bytes");
                }
                close(socket);
            });
        }
    });
    assert_eq!(origin.accepted(), CLIENTS as usize);
    drop(origin);
    proxy.finish();
}

type Socket = WebSocket<TcpStream>;

/// Shakes hands as a client.
fn connect(proxy: &Proxy) -> Socket {
    let stream = Client::connect(proxy.address).wire().writer();
    let shaken = tungstenite::client("ws://fastlb.test/chat", stream);
    let (socket, response) = shaken.expect("the backend switches");
    assert_eq!(response.status(), 101);
    socket
}

/// Shakes hands as a backend.
fn accept(conversation: &mut Conversation<'_>) -> Socket {
    tungstenite::accept(conversation.wire().writer()).expect("the client asks for it")
}

/// Sends back each message until the client closes.
fn echo(conversation: &mut Conversation<'_>) {
    let mut socket = accept(conversation);
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                socket.send(message).expect("it is sent");
            }
            Ok(_) => {}
            Err(Error::ConnectionClosed) => return,
            Err(error) => panic!("the backend hears: {error}"),
        }
    }
}

/// The next message with contents.
#[track_caller]
fn hear(socket: &mut Socket) -> Message {
    loop {
        match socket.read().expect("there is more") {
            message @ (Message::Text(_) | Message::Binary(_)) => return message,
            Message::Close(_) => panic!("closed too early"),
            _ => {}
        }
    }
}

/// Sends a message in fragments, with a ping behind each but the last.
fn send_in_pieces(socket: &mut Socket, whole: &[u8], bytes: usize) {
    let mut pieces = whole.chunks(bytes).peekable();
    let mut kind = Data::Binary;
    while let Some(piece) = pieces.next() {
        let is_last = pieces.peek().is_none();
        let frame = Frame::message(piece.to_vec(), OpCode::Data(kind), is_last);
        socket.send(Message::Frame(frame)).expect("it is sent");
        kind = Data::Continue;
        if !is_last {
            socket.send(ping("still there?")).expect("it is sent");
        }
    }
}

/// Closes, and demands that the other side agrees before the connection ends.
#[track_caller]
fn close(mut socket: Socket) {
    socket.close(None).expect("it is sent");
    wait_closed(&mut socket);
}

/// Reads to the end, which must be one that both sides agreed on.
#[track_caller]
fn wait_closed(socket: &mut Socket) {
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(Error::ConnectionClosed) => return,
            Err(error) => panic!("no clean close: {error}"),
        }
    }
}

fn ping(said: &'static str) -> Message {
    Message::Ping(said.into())
}

fn pong(said: &'static str) -> Message {
    Message::Pong(said.into())
}
