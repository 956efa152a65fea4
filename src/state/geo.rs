//! Where an address is: MaxMind's databases, and a CSV of networks for what is in none of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use maxminddb::Reader;
use serde::Deserialize;

use super::csv::records;
use super::lists::{Bad, MOST_ENTRIES};

/// What is known of an address; nothing by default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Place {
    pub location: Location,
    /// The number of its autonomous system.
    pub asn: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Location {
    /// As ISO 3166-1 has it: `SE`.
    pub country: Option<String>,
    /// As ISO 3166-2 has it, without the country.
    pub region: Option<String>,
    /// In English.
    pub city: Option<String>,
    /// Two letters: `EU`.
    pub continent: Option<String>,
    pub lat: Option<f64>,
    pub lon: Option<f64>,
    /// As the tz database has it.
    pub tz: Option<String>,
}

/// Members of the European Union, and those of their parts that have codes of their own and
/// belong to it.
const EU: [&str; 34] = [
    "AT", "AX", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GF", "GP", "GR", "HR",
    "HU", "IE", "IT", "LT", "LU", "LV", "MF", "MQ", "MT", "NL", "PL", "PT", "RE", "RO", "SE", "SI",
    "SK", "YT",
];

impl Location {
    /// None where the country is not known.
    pub fn eu(&self) -> Option<bool> {
        self.country.as_deref().map(|country| EU.contains(&country))
    }
}

impl Place {
    /// What `other` knows is taken where nothing is known here. A location is taken as a whole, so
    /// that no city stands in another one's country.
    pub fn or(self, other: Self) -> Self {
        let known = self.location != Location::default();
        let location = if known { self.location } else { other.location };
        Self { location, asn: self.asn.or(other.asn) }
    }
}

/// One file.
pub enum Geo {
    MaxMind(Reader<Vec<u8>>),
    Networks(Networks),
}

/// By length of the prefix, the longest first.
#[derive(Default)]
pub struct Networks(Vec<(u8, HashMap<IpNet, Place>)>);

/// Knows nothing.
impl Default for Geo {
    fn default() -> Self {
        Self::Networks(Networks::default())
    }
}

impl Geo {
    pub fn is_max_mind(file: &Path) -> bool {
        file.extension().is_some_and(|extension| extension == "mmdb")
    }

    pub fn from_max_mind(bytes: Vec<u8>) -> Result<Self, Bad> {
        let reader = Reader::from_source(bytes);
        let reader = reader.map_err(|error| Bad::whole(format!("no MaxMind database: {error}")))?;
        Ok(Self::MaxMind(reader))
    }

    /// RFC 4180 with a header, whose names are columns below.
    pub fn from_csv(text: &str) -> Result<Self, Bad> {
        Networks::from_csv(text).map(Self::Networks)
    }

    /// The error is a damaged file's.
    pub fn place(&self, address: IpAddr) -> Result<Place, String> {
        match self {
            Self::MaxMind(reader) => max_mind(reader, address).map_err(|error| error.to_string()),
            Self::Networks(networks) => Ok(networks.place(address)),
        }
    }
}

/// The part of MaxMind's City, Country and ASN records that is of use here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Record {
    country: Code,
    continent: Continent,
    city: City,
    subdivisions: Vec<Code>,
    location: Coordinates,
    autonomous_system_number: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Code {
    iso_code: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Continent {
    code: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct City {
    names: Names,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Names {
    en: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Coordinates {
    latitude: Option<f64>,
    longitude: Option<f64>,
    time_zone: Option<String>,
}

fn max_mind(reader: &Reader<Vec<u8>>, address: IpAddr) -> Result<Place, maxminddb::MaxMindDbError> {
    // A database of IPv4 refuses to be asked for other addresses.
    if address.is_ipv6() && reader.metadata().ip_version == 4 {
        return Ok(Place::default());
    }
    let record: Record = reader.lookup(address)?.decode()?.unwrap_or_default();
    let location = Location {
        country: record.country.iso_code,
        region: record.subdivisions.into_iter().next().and_then(|first| first.iso_code),
        city: record.city.names.en,
        continent: record.continent.code,
        lat: record.location.latitude,
        lon: record.location.longitude,
        tz: record.location.time_zone,
    };
    Ok(Place { location, asn: record.autonomous_system_number })
}

const COLUMNS: [&str; 9] =
    ["network", "country", "region", "city", "continent", "lat", "lon", "asn", "tz"];

impl Networks {
    fn from_csv(text: &str) -> Result<Self, Bad> {
        let mut columns: Vec<String> = Vec::new();
        let mut networks = Self::default();
        let mut entries = 0;
        for record in records(text) {
            let (line, fields) = record?;
            if columns.is_empty() {
                columns = header(fields).map_err(|message| Bad::at(line, 1, message))?;
                continue;
            }
            let read = row(&columns, &fields);
            let (network, place) = read.map_err(|message| Bad::at(line, 1, message))?;
            if networks.of_length(network.prefix_len()).insert(network, place).is_some() {
                return Err(Bad::at(line, 1, format!("{network} is here twice")));
            }
            entries += 1;
        }
        if columns.is_empty() {
            return Err(Bad::whole(format!("no header: {}", COLUMNS.join(","))));
        }
        if entries > MOST_ENTRIES {
            return Err(Bad::whole(format!("{entries} networks, more than {MOST_ENTRIES}")));
        }
        Ok(networks)
    }

    fn of_length(&mut self, length: u8) -> &mut HashMap<IpNet, Place> {
        let at = self.0.partition_point(|(known, _)| *known > length);
        if self.0.get(at).is_none_or(|(known, _)| *known != length) {
            self.0.insert(at, (length, HashMap::new()));
        }
        &mut self.0[at].1
    }

    /// That of the smallest network that has it.
    fn place(&self, address: IpAddr) -> Place {
        let found = self.0.iter().find_map(|(length, places)| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            places.get(&network)
        });
        found.cloned().unwrap_or_default()
    }
}

fn header(fields: Vec<String>) -> Result<Vec<String>, String> {
    if let Some(wrong) = fields.iter().find(|field| !COLUMNS.contains(&field.as_str())) {
        return Err(format!("there is no column \"{wrong}\"; there are {}", COLUMNS.join(", ")));
    }
    for name in &fields {
        if fields.iter().filter(|field| *field == name).count() > 1 {
            return Err(format!("the column \"{name}\" is here twice"));
        }
    }
    match fields.iter().any(|field| field == "network") {
        true => Ok(fields),
        false => Err("the column \"network\" is missing".to_owned()),
    }
}

fn row(columns: &[String], fields: &[String]) -> Result<(IpNet, Place), String> {
    if columns.len() != fields.len() {
        let (found, wanted) = (fields.len(), columns.len());
        return Err(format!("this line has {found} fields, and the header {wanted}"));
    }
    let mut network = None;
    let mut place = Place::default();
    for (column, field) in columns.iter().zip(fields).filter(|(_, field)| !field.is_empty()) {
        let wrong = |what: &str| format!("{column}: \"{field}\" is not {what}");
        let degrees = |most: f64| {
            let number = field.parse().ok().filter(|number: &f64| number.abs() <= most);
            number.ok_or_else(|| wrong("an angle in degrees"))
        };
        let text = || Some(field.clone());
        match column.as_str() {
            "network" => network = Some(network_of(field).ok_or_else(|| wrong("a network"))?),
            "country" => {
                let code = field.len() == 2 && field.bytes().all(|b| b.is_ascii_uppercase());
                place.location.country =
                    Some(code.then(|| field.clone()).ok_or_else(|| wrong("a code such as SE"))?);
            }
            "region" => place.location.region = text(),
            "city" => place.location.city = text(),
            "continent" => place.location.continent = text(),
            "lat" => place.location.lat = Some(degrees(90.0)?),
            "lon" => place.location.lon = Some(degrees(180.0)?),
            "asn" => place.asn = Some(field.parse().map_err(|_| wrong("a number"))?),
            _ => place.location.tz = text(),
        }
    }
    Ok((network.ok_or("network: it is empty")?, place))
}

fn network_of(field: &str) -> Option<IpNet> {
    let alone = || field.parse::<IpAddr>().ok().map(IpNet::from);
    field.parse::<IpNet>().ok().or_else(alone).map(|network| network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(geo: &Geo, address: &str) -> Place {
        geo.place(address.parse().expect("an address")).expect("a sound file")
    }

    #[test]
    fn the_smallest_network_counts() {
        let geo = Geo::from_csv(
            "network,country,city,asn,lat\n10.0.0.0/8,SE,,64500,59.3\n10.1.0.0/16,DE,\"Halle, Saale\",,\n2001:db8::/32,FR,,,\n",
        )
        .expect("good");
        let halle = place(&geo, "10.1.2.3");
        assert_eq!(halle.location.city.as_deref(), Some("Halle, Saale"));
        assert_eq!((halle.location.eu(), halle.asn), (Some(true), None));
        let wide = place(&geo, "10.2.0.1");
        assert_eq!((wide.location.country.as_deref(), wide.asn), (Some("SE"), Some(64500)));
        assert_eq!(wide.location.lat, Some(59.3));
        assert_eq!(place(&geo, "2001:db8::1").location.country.as_deref(), Some("FR"));
        assert_eq!(place(&geo, "11.0.0.1"), Place::default());
    }

    #[test]
    fn bad_csv_says_its_line() {
        for (csv, line, message) in [
            ("", 0, "no header: network,country"),
            ("network,land\n", 1, "there is no column \"land\""),
            ("country\n", 1, "\"network\" is missing"),
            ("network,network\n", 1, "\"network\" is here twice"),
            ("network,country\n10.0.0.0/8\n", 2, "has 1 fields, and the header 2"),
            ("network,country\n10.0.0.0/33,SE\n", 2, "\"10.0.0.0/33\" is not a network"),
            ("network,country\n10.0.0.0/8,Sweden\n", 2, "\"Sweden\" is not a code"),
            ("network,lat\n10.0.0.0/8,91\n", 2, "\"91\" is not an angle"),
            ("network,country\n10.0.0.0/8,SE\n\n10.9.9.9/8,DE\n", 4, "10.0.0.0/8 is here twice"),
            ("network,country\n,SE\n", 2, "network: it is empty"),
        ] {
            let Err(bad) = Geo::from_csv(csv) else { panic!("{csv:?} is accepted") };
            assert!(bad.line == line && bad.message.contains(message), "{csv:?}: {bad:?}");
        }
    }

    #[test]
    fn a_location_is_taken_as_a_whole() {
        let here = Place {
            location: Location { country: Some("DE".into()), ..Location::default() },
            asn: None,
        };
        let there = Place {
            location: Location { city: Some("Paris".into()), ..Location::default() },
            asn: Some(7),
        };
        let both = here.clone().or(there);
        assert_eq!((both.location, both.asn), (here.location, Some(7)));
    }

    #[test]
    fn a_database_of_max_mind_is_read_and_a_damaged_one_refused() {
        let mut database = maxminddb_writer::Database::default();
        database.metadata.binary_format_major_version = 2;
        let city = database
            .insert_value(serde_json::json!({
                "country": { "iso_code": "SE" },
                "continent": { "code": "EU" },
                "city": { "names": { "en": "Umeå", "de": "x" } },
                "subdivisions": [{ "iso_code": "AC" }],
                "location": { "latitude": 63.8, "longitude": 20.3, "time_zone": "Europe/Stockholm" },
            }))
            .expect("a value");
        let asn = database
            .insert_value(HashMap::from([("autonomous_system_number", 64500_u32)]))
            .expect("a value");
        let path = |first: [u8; 4], bits| {
            maxminddb_writer::paths::IpAddrWithMask::new(IpAddr::from(first), bits)
        };
        database.insert_node(path([127, 0, 0, 2], 32), city);
        database.insert_node(path([10, 0, 0, 0], 8), asn);
        let bytes = database.write_to(Vec::new()).expect("written");
        let geo = Geo::from_max_mind(bytes.clone()).unwrap_or_else(|bad| panic!("{bad:?}"));
        let umea = place(&geo, "127.0.0.2").location;
        assert_eq!(umea.city.as_deref(), Some("Umeå"));
        assert_eq!((umea.country.as_deref(), umea.region.as_deref()), (Some("SE"), Some("AC")));
        assert_eq!((umea.lat, umea.tz.as_deref()), (Some(63.8), Some("Europe/Stockholm")));
        assert_eq!(place(&geo, "10.2.3.4").asn, Some(64500));
        assert_eq!(place(&geo, "127.0.0.1"), Place::default());
        assert_eq!(place(&geo, "2001:db8::1"), Place::default());

        let refused = Geo::from_max_mind(bytes[..bytes.len() / 2].to_vec()).err();
        assert!(refused.expect("half of it").message.starts_with("no MaxMind database: "));
    }
}
