//! Flags that would do nothing beside the others: whoever types one believes that it does.

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::config::ListenList;

/// What a flag needs of another one to have an effect.
struct Need {
    /// The flags that need it, by their ids.
    flags: &'static [&'static str],
    /// The flag that decides, by its id.
    other: &'static str,
    is_met: fn(&str) -> bool,
    /// How to write it so that it is met.
    cure: &'static str,
}

const NEEDS: [Need; 5] = [
    Need {
        flags: &["health_path", "health_status"],
        other: "health",
        is_met: |kind| kind == "http",
        cure: "--health http",
    },
    Need {
        flags: &["health_interval", "health_timeout", "rise", "fall"],
        other: "health",
        is_met: |kind| kind != "off",
        cure: "--health tcp or --health http",
    },
    Need {
        flags: &["eject_time", "eject_max"],
        other: "eject_after",
        is_met: |count| count != "0",
        cure: "--eject-after above 0",
    },
    Need {
        flags: &["retry_on"],
        other: "retries",
        is_met: |count| count != "0",
        cure: "--retries above 0",
    },
    Need {
        flags: &[
            "header_timeout",
            "idle_timeout",
            "response_timeout",
            "body_idle_timeout",
            "max_body",
            "max_request_rate",
            "min_body_rate",
            "keep_alive_requests",
            "keep_alive_age",
            "trusted",
            "underscore_headers",
            "via",
            "forwarded",
            "request_id",
        ],
        other: "mode",
        is_met: |mode| mode == "http",
        cure: "--mode http",
    },
];

/// What is wrong with the flags that were typed: the first that has no effect. One from the
/// environment may be there for other starts.
pub(super) fn lacking(matches: &ArgMatches) -> Option<String> {
    let typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
    let value = |id| matches.get_raw(id)?.next_back()?.to_str();
    if typed("proxy_trusted") && !demands_headers(matches) {
        return Some(TRUSTED_IN_VAIN.to_owned());
    }
    NEEDS.iter().find_map(|need| {
        let flag = need.flags.iter().find(|flag| typed(flag))?;
        let other = value(need.other)?;
        let (flag, name) = (flag.replace('_', "-"), need.other.replace('_', "-"));
        (!(need.is_met)(other)).then(|| {
            let cure = need.cure;
            format!("--{flag} has no effect with --{name} {other}; it needs {cure}")
        })
    })
}

const TRUSTED_IN_VAIN: &str = "--proxy-trusted has no effect where no PROXY header is demanded; it \
    needs --accept-proxy, or --listen ADDR,proxy";

/// Whether any listener demands a header of the PROXY protocol.
fn demands_headers(matches: &ArgMatches) -> bool {
    let listen = matches.get_many("listen").into_iter().flatten();
    let mut listen = listen.flat_map(|ListenList(list)| list);
    matches.get_flag("accept_proxy") || listen.any(|listen| listen.proxied)
}
