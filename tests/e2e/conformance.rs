//! The tables of `tests/conformance/`: raw bytes in, and what becomes of them on either side.
//!
//! This file plays the cases of one engine one after the other; what a case may say stands in
//! `case`. A table that has failures names each case that is one.

mod case;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use self::case::{After, Asked, Bytes, RequestCase, ResponseCase, Then};
use crate::support::{Broken, Client, Conversation, Engine, Message, Origin, Proxy, get, ok};

on_both_engines! {
    requests_are_judged_by_the_table,
    responses_are_judged_by_the_table,
}

/// What is asked behind a case, to see whether both sides still agree where a message begins.
const NEXT: &str = "/next";

fn requests_are_judged_by_the_table(engine: Engine) {
    let origin = Origin::named("a");
    let mut proxies = Proxies::new(engine, &origin);
    let wrong = case::requests().into_iter().filter_map(|case| {
        let proxy = proxies.with(&case.options);
        let complaint = play_request(&case, proxy, &origin).err()?;
        Some(format!("{} ({}): {complaint}", case.name, case.rfc))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
    proxies.finish(origin);
}

fn responses_are_judged_by_the_table(engine: Engine) {
    let cases = Arc::new(case::responses());
    let script = Arc::clone(&cases);
    let origin = Origin::start(move |conversation| reply(&script, conversation));
    let mut proxies = Proxies::new(engine, &origin);
    let wrong = cases.iter().enumerate().filter_map(|(number, case)| {
        let proxy = proxies.with(&case.options);
        let complaint = play_response(number, case, proxy, &origin).err()?;
        Some(format!("{} ({}): {complaint}", case.name, case.rfc))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
    proxies.finish(origin);
}

/// What clients send in the table of requests.
pub(crate) fn sent() -> Vec<Vec<u8>> {
    let cases = case::requests().into_iter();
    cases.map(|case| case.send.0).collect()
}

/// A proxy for each set of options that cases ask for, all before one origin.
struct Proxies {
    engine: Engine,
    backend: String,
    started: HashMap<Vec<String>, Proxy>,
}

impl Proxies {
    fn new(engine: Engine, origin: &Origin) -> Self {
        Self {
            engine,
            backend: origin.backend(),
            started: HashMap::new(),
        }
    }

    fn with(&mut self, options: &[String]) -> &Proxy {
        self.started.entry(options.to_vec()).or_insert_with(|| {
            // One backend that answers badly on purpose is not to be ejected for it.
            let fixed = ["--backends", &self.backend, "--eject-after", "0"];
            let options = options.iter().map(String::as_str);
            let arguments: Vec<&str> = fixed.into_iter().chain(options).collect();
            Proxy::start(self.engine, &arguments)
        })
    }

    fn finish(self, origin: Origin) {
        drop(origin);
        self.started.into_values().for_each(Proxy::finish);
    }
}

/// Sends what the case says and demands its answers of the proxy, and of the origin that it has
/// seen what it may see and nothing else.
fn play_request(case: &RequestCase, proxy: &Proxy, origin: &Origin) -> Result<(), String> {
    let before = origin.requests().len();
    let mut client = Client::connect(proxy.address);
    let Bytes(send) = &case.send;
    // Behind what ends the connection nothing is a request any more.
    let unseen = case.ends() && !case.half_close;
    let behind = if unseen {
        get("/smuggled")
    } else {
        String::new()
    };
    // The proxy may refuse before it has all of it.
    let _ = client.wire().try_send(&[send, behind.as_bytes()].concat());
    if case.half_close {
        client.half_close();
    }
    for (place, status) in case.status.iter().enumerate() {
        let method = case.method(place);
        let response = client.wire().response(method).map_err(unanswered)?;
        expect("status", &response.status(), status)?;
        expect("dates", &response.head.fields_named("date").len(), &1)?;
        let announced = response.head.connection_says("close");
        if place + 1 == case.status.len() && unseen && !announced {
            return Err("the close is not announced".to_owned());
        }
        let is_ours = case.line.len() <= place;
        if is_ours && response.body.is_empty() != (method == "HEAD") {
            return Err("the reason is missing".to_owned());
        }
    }
    match case.ends() {
        true => closes(&mut client)?,
        false => asks_next(&mut client)?,
    }
    let mut seen = origin.requests().split_off(before);
    if !case.ends() {
        let next = seen.pop().map(|next| next.head.start);
        expect(
            "the next request",
            &next.as_deref(),
            &Some("GET /next HTTP/1.1"),
        )?;
    }
    let lines: Vec<_> = seen.iter().map(|seen| seen.head.start.as_bytes()).collect();
    let expected: Vec<_> = case.line.iter().map(|Bytes(line)| &line[..]).collect();
    if lines != expected {
        let lines: Vec<_> = seen.iter().map(|seen| &seen.head.start).collect();
        return Err(format!("what the backend sees: {lines:?}"));
    }
    match seen.first() {
        Some(first) => has(first, &case.has, &case.lacks, case.body.as_ref()),
        None => Ok(()),
    }
}

/// Answers as the case says whose number is the path of the request.
fn reply(cases: &[ResponseCase], conversation: &mut Conversation<'_>) {
    while let Some(request) = conversation.request() {
        let number = request.head.target()[1..].parse::<usize>().ok();
        let Some(case) = number.map(|number| &cases[number]) else {
            conversation.send(ok(NEXT.as_bytes()));
            continue;
        };
        conversation.send(&case.reply.0);
        match case.then {
            Then::Wait => continue,
            Then::Close => {}
            Then::Reset => conversation.reset_on_close(),
        }
        return;
    }
}

/// Has a case answered and demands what the client sees of it. Behind it another request has to be
/// answered, over the same connection to the backend or over a new one.
fn play_response(
    number: usize,
    case: &ResponseCase,
    proxy: &Proxy,
    origin: &Origin,
) -> Result<(), String> {
    let mut client = Client::connect(proxy.address);
    let Asked {
        method,
        version,
        fields: Bytes(fields),
    } = &case.asked;
    let line = format!("{method} /{number} HTTP/{version}\r\nHost: a\r\n");
    client.send([line.as_bytes(), fields, b"\r\n"].concat());
    let mut head = client.wire().head().map_err(unanswered)?;
    for (place, status) in case.status.iter().enumerate() {
        if place > 0 {
            head = client.wire().head().map_err(unanswered)?;
        }
        expect("status", &head.status(), status)?;
        expect("dates", &head.fields_named("date").len(), &1)?;
    }
    let (framing, mut body) = (head.response_framing(method)?, Vec::new());
    let wire = client.wire();
    let read = wire.body(framing, |piece| body.extend_from_slice(piece));
    expect(
        "broken",
        &read.as_ref().err(),
        &(case.after == After::Cut).then_some(&Broken::Cut),
    )?;
    let response = Message {
        head,
        framing,
        body,
        trailers: read.unwrap_or_default(),
    };
    has(&response, &case.has, &case.lacks, case.body.as_ref())?;
    expect("the trailer section", &response.trailers, &case.trailers)?;
    let connections = origin.accepted();
    match case.after {
        After::Keep => asks_next(&mut client)?,
        After::Close => closes(&mut client)?,
        After::Cut => {}
    }
    if case.after != After::Keep {
        asks_next(&mut Client::connect(proxy.address))?;
    }
    expect("reused", &(origin.accepted() == connections), &case.reused)
}

/// Demands these fields and no others of their names, in this order, none of the names that it
/// lacks, and this body.
fn has(
    message: &Message,
    has: &[String],
    lacks: &[String],
    body: Option<&Bytes>,
) -> Result<(), String> {
    let split = |field| str::split_once(field, ": ").unwrap_or((field, ""));
    let fields: Vec<(&str, &str)> = has.iter().map(|field| split(field)).collect();
    for (name, _) in &fields {
        let named = fields.iter().filter(|(other, _)| other == name);
        let values: Vec<&str> = named.map(|(_, value)| *value).collect();
        expect(name, &message.head.fields_named(name), &values)?;
    }
    for name in lacks {
        expect(name, &message.head.fields_named(name), &Vec::new())?;
    }
    match body {
        Some(Bytes(body)) => expect("the body", &message.text(), &String::from_utf8_lossy(body)),
        None => Ok(()),
    }
}

/// Demands that the connection serves another request.
fn asks_next(client: &mut Client) -> Result<(), String> {
    let sent = client.wire().try_send(get(NEXT).as_bytes());
    sent.map_err(|error| format!("the next request: {error}"))?;
    let next = client.wire().response("GET").map_err(unanswered)?;
    expect(
        "the next answer",
        &(next.status(), &*next.text()),
        &(200, NEXT),
    )
}

/// Demands that the connection ends without another byte.
fn closes(client: &mut Client) -> Result<(), String> {
    match client.wire().head() {
        Err(broken) => expect("the end", &broken, &Broken::Closed),
        Ok(second) => Err(format!("one answer too many: {}", second.start)),
    }
}

fn unanswered(broken: Broken) -> String {
    format!("no answer: {broken:?}")
}

fn expect<T: PartialEq + Debug>(what: &str, is: &T, should: &T) -> Result<(), String> {
    if is == should {
        return Ok(());
    }
    Err(format!("{what}: {is:?}, but it should be {should:?}"))
}
