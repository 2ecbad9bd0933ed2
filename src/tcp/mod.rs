//! TCP from clients to backends: connections, whatever they carry (`--mode tcp`), and what becomes
//! of an HTTP connection that switches protocols.

mod session;

pub(crate) use session::{join, open};
