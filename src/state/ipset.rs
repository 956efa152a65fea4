//! Sets of networks, as sorted ranges of addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use super::lists::{Bad, MOST_ENTRIES};

/// First and last address of each range, in order, apart from each other.
#[derive(Debug, Default)]
pub struct IpSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl IpSet {
    pub fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(net) => {
                    v4.push((u32::from(net.network()), u32::from(net.broadcast())));
                }
                IpNet::V6(net) => match net.network().to_ipv4_mapped() {
                    // `::ffff:0:0/96` and what is inside of it are IPv4 addresses.
                    Some(first) if net.prefix_len() >= 96 => {
                        let last = net.broadcast().to_ipv4_mapped().unwrap_or(first);
                        v4.push((first.into(), last.into()));
                    }
                    _ => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
                },
            }
        }
        Self { v4: merged(v4), v6: merged(v6) }
    }

    /// An IPv4-mapped IPv6 address is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(ip) => within(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => within(&self.v6, u128::from(ip)),
        }
    }

    /// Addresses and networks, one on each line; `#` begins a comment.
    pub fn parse_lines(text: &str) -> Result<Vec<IpNet>, Bad> {
        let mut networks = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if !entry.is_empty() {
                let wrong = || Bad::at(index + 1, 1, not_a_network(entry));
                networks.push(parse(entry).ok_or_else(wrong)?);
            }
        }
        bounded(networks)
    }

    /// A JSON list of texts.
    pub fn parse_json(text: &str) -> Result<Vec<IpNet>, Bad> {
        let entries: Vec<String> = serde_json::from_str(text).map_err(|error| {
            Bad::at(error.line(), error.column(), format!("no JSON list of texts: {error}"))
        })?;
        let network = |entry: &String| parse(entry).ok_or_else(|| Bad::whole(not_a_network(entry)));
        bounded(entries.iter().map(network).collect::<Result<_, _>>()?)
    }
}

fn parse(entry: &str) -> Option<IpNet> {
    entry.parse().ok().or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from))
}

fn not_a_network(entry: &str) -> String {
    let shown: String = entry.chars().take(80).collect();
    format!("\"{shown}\" is no address and no network such as 10.0.0.0/8")
}

fn bounded(networks: Vec<IpNet>) -> Result<Vec<IpNet>, Bad> {
    match networks.len() {
        0..=MOST_ENTRIES => Ok(networks),
        more => Err(Bad::whole(format!("{more} entries, more than {MOST_ENTRIES}"))),
    }
}

fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after > 0 && address <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(lines: &str) -> IpSet {
        IpSet::new(&IpSet::parse_lines(lines).expect("good"))
    }

    fn has(set: &IpSet, address: &str) -> bool {
        set.contains(address.parse().expect("an address"))
    }

    #[test]
    fn networks_may_overlap_and_end_where_they_say() {
        let set = set("10.0.0.0/8 # all\n10.1.0.0/16\n\n192.0.2.1\n2001:db8::/32\n0.0.0.0/32\n");
        for inside in
            ["10.0.0.0", "10.255.255.255", "10.1.2.3", "192.0.2.1", "2001:db8::1", "0.0.0.0"]
        {
            assert!(has(&set, inside), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.0.2.0", "192.0.2.2", "2001:db9::", "::"] {
            assert!(!has(&set, outside), "{outside}");
        }
        assert!(!has(&IpSet::default(), "10.0.0.1"));
        assert!(has(&super::IpSet::new(&["::/0".parse().expect("a network")]), "2001:db8::1"));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let set = set("::ffff:127.0.0.16\n::ffff:10.0.0.0/104\n192.0.2.0/24");
        for inside in ["127.0.0.16", "::ffff:127.0.0.16", "10.9.9.9", "::ffff:192.0.2.7"] {
            assert!(has(&set, inside), "{inside}");
        }
        assert!(!has(&set, "127.0.0.17"));
    }

    #[test]
    fn a_bad_entry_says_its_line() {
        let bad = IpSet::parse_lines("10.0.0.0/8\n# fine\n10.0.0.0/33\n").expect_err("no network");
        assert_eq!((bad.line, bad.message.contains("10.0.0.0/33")), (3, true), "{}", bad.message);
        assert!(IpSet::parse_json(r#"["10.0.0.0/8", "x"]"#).is_err());
        assert!(IpSet::parse_json(r#"{"a": 1}"#).is_err());
        assert_eq!(IpSet::parse_json(r#"["10.0.0.0/8", "::1"]"#).expect("good").len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_asking_each_network(
            nets in proptest::collection::vec((0_u32..2000, 20_u8..=32), 0..20),
            probes in proptest::collection::vec(0_u32..4096, 50),
        ) {
            let networks: Vec<IpNet> = nets
                .iter()
                .map(|(base, length)| {
                    IpNet::new(IpAddr::from(base.to_be_bytes()), *length).expect("a network").trunc()
                })
                .collect();
            let set = IpSet::new(&networks);
            for probe in probes {
                let address = IpAddr::from(probe.to_be_bytes());
                let expected = networks.iter().any(|network| network.contains(&address));
                proptest::prop_assert_eq!(set.contains(address), expected);
            }
        }
    }
}
