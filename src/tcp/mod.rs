//! TCP from clients to backends (`--mode tcp`): connections, whatever they carry.

mod session;

pub(crate) use session::open;
