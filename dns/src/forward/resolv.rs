//! The name servers of a file in the format of resolv.conf.

use std::net::SocketAddr;

use crate::config::upstream_address;

/// Most name servers taken from a file.
const SERVERS_MAX: usize = 16;

/// The servers that `nameserver` lines name, in order; what is no address is passed over, as the
/// C library does.
pub(super) fn name_servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        // `fe80::1%eth0`: without its interface, which is not kept, it leads nowhere.
        upstream_address(words.next().filter(|word| !word.contains('%'))?, 53)
    };
    text.lines().filter_map(server).take(SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_the_rest_is_passed_over() {
        let text = "# nameserver 10.0.0.9\nsearch a b\n nameserver 10.0.0.1 # x\nnameserver fd00::1\n\
                    nameserver nobody\noptions ndots:5\nnameserver fe80::1%eth0\n";
        let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fd00::1]:53"]);
        assert_eq!(name_servers(""), []);
    }
}
