//! End-to-end tests: the real binary on real sockets, once per engine.
//!
//! A test is a function of the engine; [`on_both_engines`] makes two tests of it. Each starts its
//! own origins and its own proxy on free ports of the loopback, and ends with `Proxy::finish`,
//! which demands that every descriptor, chunk and operation is back where it was. What rules decide
//! by values alone is tested beside their code, not here.

/// Makes a test per engine of each named function. Its list is the contents of a file.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test]
            fn $name() {
                crate::support::run_on(crate::support::Engine::IoUring, super::$name);
            })+
        }

        mod epoll {
            $(#[test]
            fn $name() {
                crate::support::run_on(crate::support::Engine::Epoll, super::$name);
            })+
        }
    };
}

mod support;

mod abandoned;
mod behind;
mod bodies;
mod client_limits;
mod conformance;
mod crowd;
mod date;
mod deadlines;
mod drain;
mod early;
mod harness;
mod health;
mod keep_alive;
mod limits;
mod newcomer;
mod pace;
mod proxy_in;
mod proxy_out;
mod rewrite;
mod round_robin;
mod slow_clients;
mod smuggling;
mod strict;
mod tcp;
mod unasked;
mod unix;
mod upgrade;
mod upstream;
mod upstream_faults;
mod websocket;
