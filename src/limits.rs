//! Every limit of the program, with its unit at the end of its name, and how they relate.
//!
//! What a user may set has its default here; what he may not set is a constant here. A limit
//! that lives elsewhere is one that nobody finds.

/// Longest head (request line or status line, fields and the blank line) that is accepted.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most fields in one head.
pub const FIELDS_MAX: usize = 100;
/// Longest value of all `Connection` fields of one head together: every other field is looked for
/// in it, so it bounds that work.
pub const CONNECTION_BYTES_MAX: usize = 512;
/// Longest line that gives the size of a chunk, its extensions included (RFC 9112 section 7.1).
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Bytes of the extensions of all chunks of one body: they are dropped, so that a client could have
/// fastlb read much for a body of little.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Longest trailer section after the last chunk (RFC 9112 section 7.1.2).
pub const TRAILER_BYTES_MAX: usize = 4 * 1024;
/// Longest `X-Request-Id` that is kept: several times as long as those of any program that makes
/// them, and nothing that weighs in a head.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Longest name that fastlb goes by in `Via`: it is written into every message.
pub const PSEUDONYM_BYTES_MAX: usize = 64;
/// Most interim (1xx) responses before the final one (RFC 9110 section 15.2).
pub const INTERIM_RESPONSES_MAX: u32 = 32;

/// Longest header of the PROXY protocol that is accepted, its TLVs included. Version 2 has room for
/// 64 KiB; addresses and what is told of TLS come to some hundred bytes, and nginx takes as many.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 * 1024;
/// Time for a whole header of the PROXY protocol: the shortest that its specification allows, so
/// that a segment may get lost.
pub const PROXY_TIMEOUT_MS: u64 = 3_000;

/// Parts of the table of clients' connections, each with a lock of its own: enough that workers
/// which accept at once seldom meet.
pub const CLIENT_SHARDS: usize = 64;

/// Sets of the table of clients' request rates, and clients in each of them: a set is what a
/// processor fetches at a time. 64 Ki clients in 1 MiB; whoever comes beyond that takes the place
/// of one who has asked little.
pub const CLIENT_RATE_SETS: usize = 8 * 1024;
/// See there.
pub const CLIENT_RATE_WAYS: usize = 8;
/// Highest rate that may be asked for; above it the grain of time would show.
pub const CLIENT_RATE_MAX: u32 = 1_000_000;

/// Time to establish a connection to a backend.
pub const CONNECT_TIMEOUT_MS: u64 = 3_000;
/// Time for a whole request head, from its first byte.
pub const HEADER_TIMEOUT_MS: u64 = 10_000;
/// Time that a client's connection may be idle between requests.
pub const IDLE_TIMEOUT_MS: u64 = 60_000;
/// Time to a whole response head, from the last byte of the request.
pub const RESPONSE_TIMEOUT_MS: u64 = 30_000;
/// Time inside a body in which nothing moves: nothing is sent and nothing taken, in neither
/// direction of the exchange.
pub const BODY_IDLE_TIMEOUT_MS: u64 = 30_000;
/// Bytes in each second that a client must send or take on average while it is waited for, over
/// such a time: what Kestrel demands of both directions; Apache demands 500 of requests.
pub const BODY_RATE_MIN: u64 = 240;
/// Time between two looks whether the one who waits for an answer is still there. Nothing is
/// received from him meanwhile, so nothing else would tell.
pub const LOST_LOOK_MS: u64 = 1_000;
/// Looks at what a peer has taken in such a time: that it takes nothing is found out at most one
/// look late.
pub const BODY_IDLE_LOOKS: u32 = 4;
/// Time that a pooled connection to a backend may stay idle.
pub const POOL_IDLE_TIMEOUT_MS: u64 = 60_000;
/// Time that a flow of TCP, or a tunnel, may be idle in both directions.
pub const TCP_IDLE_TIMEOUT_MS: u64 = 600_000;
/// Time that it may stand still once one side has closed its direction.
pub const TCP_HALF_CLOSED_TIMEOUT_MS: u64 = 30_000;
/// Time after which one that stands still is taken for idle once the program drains.
pub const TCP_DRAIN_IDLE_MS: u64 = 2_000;
/// Looks at whether anything moved before a flow is found to stand still: it is found out at most
/// one look late.
pub const TCP_IDLE_LOOKS: u32 = 4;
/// Time that busy sessions have to finish once the program drains.
pub const DRAIN_TIMEOUT_MS: u64 = 30_000;

/// Time that an idle connection still has during a drain to begin a request that is on its way.
pub const DRAIN_GRACE_MS: u64 = 500;
/// Time that a client has to read the last response after fastlb closed its side.
pub const LINGER_TIMEOUT_MS: u64 = 2_000;
/// Bytes that are read and thrown away meanwhile.
pub const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// Connections to other backends that are tried after the first one failed.
pub const RETRIES: u32 = 2;
/// Most retries that may be asked for.
pub const RETRIES_MAX: u32 = 16;
/// Tries of one backend that refuses, where there is no other.
pub const SAME_BACKEND_TRIES: u32 = 3;
/// Time between them.
pub const SAME_BACKEND_PAUSE_MS: u64 = 10;
/// Time between two tries of a Unix socket whose queue is full, there being no other backend.
pub const QUEUE_FULL_PAUSE_MS: u64 = 10;
/// Requests that may be sent a second time after they reached a backend, in percent of all.
pub const RETRY_BUDGET_PERCENT: u64 = 20;
/// More of them each second, over all workers.
pub const RETRY_BUDGET_PER_SECOND: u64 = 10;
/// Most of them that a worker may have saved up, so that the end of a backend costs none of the
/// many requests that it had.
pub const RETRY_BUDGET_MAX: u64 = 256;
/// What a client is told to wait that finds no backend.
pub const RETRY_AFTER_S: u64 = 2;
/// Idle connections kept per backend and worker.
pub const POOL_IDLE_MAX: usize = 128;

/// Time between two checks of a backend.
pub const HEALTH_INTERVAL_MS: u64 = 2_000;
/// Time that a check may take.
pub const HEALTH_TIMEOUT_MS: u64 = 1_000;
/// Part of the interval by which checks are spread at random, so that they do not come in bursts.
pub const HEALTH_JITTER_PERCENT: u64 = 10;
/// Grain of the moments at which checks begin.
pub const HEALTH_STEP_MS: u64 = 100;
/// How much more often a backend is checked while its state is changing.
pub const HEALTH_FASTER_TIMES: u64 = 4;
/// Failed checks behind the one that took a backend down for which that is so: many that go down
/// come back at once, and many that are down at the start are just starting. Not for ever, because
/// most of a large fleet may be down.
pub const HEALTH_FASTER_CHECKS: u32 = 8;
/// Backends that are checked so much more often only because they have just gone down: a large part
/// of a large fleet may do so at once.
pub const HEALTH_FASTER_BACKENDS_MAX: usize = 64;
/// Checks in a row that bring a backend up.
pub const HEALTH_RISE: u32 = 2;
/// Checks in a row that take a backend down.
pub const HEALTH_FALL: u32 = 3;
/// Checks that may be under way at once in any case; the others wait their turn.
pub const HEALTH_CHECKS_MIN: usize = 64;
/// Most of them. A fleet has one for each backend, up to here: those that nobody answers take all
/// their time, and whoever waits for them is found dead late.
pub const HEALTH_CHECKS_MAX: usize = 1024;
/// Most of the descriptors that sessions could have for which it gets more than the least.
pub const HEALTH_CHECKS_PART_MAX_PERCENT: usize = 10;
/// Bytes that the answer to a check is read in at a time.
pub const HEALTH_READ_BYTES: usize = 1024;
/// Failed requests in a row, over all workers, that eject a backend.
pub const EJECT_AFTER: u32 = 5;
/// Time that the first ejection of a backend lasts; the nth lasts n times as long.
pub const EJECT_TIME_MS: u64 = 30_000;
/// How many times as long an ejection may become.
pub const EJECT_TIMES_MAX: u64 = 10;
/// Most checks or requests in a row that may be asked for.
pub const HEALTH_COUNT_MAX: i64 = 1_000;
/// Most of the fleet that may be ejected at a time; one backend always may.
pub const EJECT_PART_MAX_PERCENT: u32 = 10;
/// Reports of workers that may wait for the control thread; more are counted and lost.
pub const REPORTS_MAX: usize = 4096;

/// Workers that one process may run.
pub const WORKERS_MAX: usize = 1024;
/// Backends that one process may have.
pub const BACKENDS_MAX: usize = 16 * 1024;
/// Largest weight of a backend.
pub const WEIGHT_MAX: u16 = 256;
/// Longest layout of the weighted round robin, in slots.
pub const SLOTS_MAX: usize = BACKENDS_MAX * WEIGHT_MAX as usize;

/// Longest name of a host (RFC 1035 section 2.3.4).
pub const HOST_BYTES_MAX: usize = 253;
/// Longest path of a Unix socket: what `sun_path` holds before its NUL (unix(7)).
pub const UNIX_PATH_BYTES_MAX: usize = 107;
/// Time that a start waits for an address that is in use. The kernel takes a ring down some time
/// after its process has ended, and what that had listened on is in use until then.
pub const LISTEN_PATIENCE_MS: u64 = 500;
/// The port that is listened on where none is named.
pub const PORT: u16 = 3030;

/// Bytes of a chunk that a message is first read into. Never held while a send is pending.
pub const SMALL_CHUNK_BYTES: usize = 4 * 1024;
/// Small chunks that a worker has: few, because none is held for longer than a turn.
pub const SMALL_CHUNKS_MAX: usize = 2 * SLAB_BYTES / SMALL_CHUNK_BYTES;
/// Bytes of a chunk that bodies are relayed in.
pub const LARGE_CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of the large chunks that a worker may have in all.
pub const RELAY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Small chunks that a worker lends to its ring from the start. As many messages may complete in
/// one turn of the loop before their bytes are taken over; the kernel answers one more with
/// ENOBUFS, and it costs a second turn.
pub const CHUNKS_AT_START: usize = 256;
/// Bytes by which a worker's chunks grow at a time.
pub const SLAB_BYTES: usize = 1024 * 1024;
/// Chunks that come home before they are handed to the kernel again in one go.
pub const CHUNKS_RETURN_BATCH: usize = 16;

/// Bytes that a body must still have to come for it to be spliced rather than copied.
pub const SPLICE_BYTES_MIN: u64 = 64 * 1024;
/// Bytes that must come at a time for splicing to go on; fewer are cheaper to copy.
pub const SPLICE_BATCH_BYTES_MIN: usize = 16 * 1024;
/// Bytes of bulk that a worker splices, for all flows together, before it turns to everybody else.
/// A quarter of a mebibyte is a tenth of a millisecond; less would cost bulk more than it saves.
pub const RELAY_TURN_BYTES_MAX: usize = 256 * 1024;
/// Sends that go at once, and not at the end of the turn, after bulk was spliced: about as many as
/// a turn has. Beside bulk a turn may last for milliseconds.
pub const SENDS_AT_ONCE: u32 = 64;
/// Pipes that a worker may have; each is two descriptors. A slow reader has one until he has taken
/// all that is in it, so as many of those leave none to the others, who copy meanwhile.
pub const PIPES_MAX: usize = 16;
/// Bytes that a pipe should have room for.
pub const PIPE_BYTES: usize = 1024 * 1024;
/// Bytes that a pipe must have room for to be of use: an unprivileged user who has many gets small
/// ones (pipe(7)).
pub const PIPE_BYTES_MIN: usize = 64 * 1024;
/// Time in which a pooled connection tells that the backend had closed it before it was asked: a
/// round trip, to a far one. Who takes longer has had the request.
pub const STALE_MS_MAX: u64 = 500;
/// Ticks after which a pipe that nobody needed is closed.
pub const PIPE_IDLE_TICKS: u32 = 5;

/// Ticks without an error behind which an accept shows that accepting is well again: an error that
/// comes and goes is not told each time.
pub const ACCEPT_FAILING_TICKS: u32 = 20;

/// Entries of a worker's submission queue.
pub const RING_ENTRIES: u32 = 1024;
/// Entries of a worker's completion queue.
pub const RING_COMPLETIONS: u32 = 16 * 1024;
/// Connections that the kernel may hold for a listener before they are accepted.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Tries for the lock of a Unix socket's path; each of them but the last found that somebody else
/// had just had it.
pub const UNIX_LOCK_TRIES_MAX: u32 = 8;

/// Connections that a worker accepts at a time, before it serves those it has.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Deadlines that a worker has pass at a time, before it looks at everything else. To cut a client
/// takes some ten microseconds, and a thousand may have come within the same tick.
pub const EXPIRIES_PER_TURN: usize = 16;

/// Grain of every deadline.
pub const TICK_MS: u64 = 100;
/// Ticks that the deadline wheel spans before an entry is put in again.
pub const WHEEL_SLOTS: usize = 1024;

/// Descriptors kept back from sessions: listeners, rings, logs, the least of the checks.
pub const DESCRIPTORS_RESERVED: usize = 128;
/// More of them for each worker, its pipes among them.
pub const DESCRIPTORS_RESERVED_PER_WORKER: usize = 16 + 2 * PIPES_MAX;
/// Exchanges whose memory a worker keeps for the next ones in any case.
pub const EXCHANGES_SPARE_MIN: usize = 16;
/// Exchanges whose memory it keeps for as long as they are needed.
pub const EXCHANGES_SPARE_MAX: usize = 256;
/// Bytes of a buffer that is kept for the next exchange; a larger one is given back.
pub const SPARE_BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Time between two beats of the control thread.
pub const BEAT_MS: u64 = 1_000;
/// Time that operations have to come back once everything is cancelled.
pub const SETTLE_TIMEOUT_MS: u64 = 5_000;
/// Beats in a row that a worker may miss.
pub const BEATS_MISSED_MAX: u32 = 5;

/// Workers that a demo may start; each is a process.
pub const DEMO_WORKERS_MAX: i64 = 64;
/// Requests per second that a demo may send to itself; more is a load test.
pub const DEMO_RATE_MAX: i64 = 10_000;
/// Requests of a demo that may be under way at once; while they are, the stream leaves out its
/// turns.
pub const DEMO_IN_FLIGHT_MAX: usize = 256;
/// Longest line that a demo worker may say where it listens with.
pub const DEMO_LINE_BYTES_MAX: u64 = 256;
/// Time between two pictures of the demo's table.
pub const DEMO_REDRAW_MS: u64 = 1_000;
/// Longest average delay of a demo worker.
pub const DEMO_AVG_DELAY_MAX_MS: u64 = 3_600_000;
/// Time until a demo worker that died is started again.
pub const DEMO_RESTART_MS: u64 = 3_000;
/// Time that a demo worker has to come up.
pub const DEMO_START_TIMEOUT_MS: u64 = 10_000;
/// Time that a demo worker has to end by itself.
pub const DEMO_STOP_TIMEOUT_MS: u64 = 3_000;
/// Time that the demo's own requests have to end once no more are sent.
pub const DEMO_TRAFFIC_STOP_TIMEOUT_MS: u64 = 5_000;

const _: () = assert!(HEALTH_CHECKS_MIN <= DESCRIPTORS_RESERVED / 2);
const _: () = assert!(HEALTH_CHECKS_MIN <= HEALTH_CHECKS_MAX);
const _: () = assert!(SMALL_CHUNK_BYTES <= HEAD_BYTES_MAX);
const _: () = assert!(SLAB_BYTES.is_multiple_of(LARGE_CHUNK_BYTES));
const _: () = assert!(SLAB_BYTES.is_multiple_of(SMALL_CHUNK_BYTES));
const _: () = assert!(RELAY_BYTES_MAX / LARGE_CHUNK_BYTES <= u16::MAX as usize);
const _: () = assert!(SMALL_CHUNKS_MAX <= u16::MAX as usize);
const _: () = assert!(PIPE_BYTES_MIN <= PIPE_BYTES);
const _: () = assert!(SPLICE_BATCH_BYTES_MIN <= PIPE_BYTES_MIN);
const _: () = assert!(RING_ENTRIES < RING_COMPLETIONS);
const _: () = assert!(CHUNK_LINE_BYTES_MAX < SMALL_CHUNK_BYTES);
