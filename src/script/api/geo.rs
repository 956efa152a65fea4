//! `req.client.geo`: where the client's address is.

use std::sync::Arc;

use rhai::{Dynamic, NativeCallContext};

use super::client::ClientHandle;
use super::state::State;
use super::table::Table;
use super::{Outcome, fail};
use crate::state::Place;

#[derive(Clone)]
pub struct Geo(Arc<Place>);

fn text(value: &Option<String>) -> Dynamic {
    value.clone().map_or(Dynamic::UNIT, Into::into)
}

fn number(value: Option<f64>) -> Dynamic {
    value.map_or(Dynamic::UNIT, Into::into)
}

pub fn area(table: &mut Table) {
    table
        .get(
            "client.geo",
            "Where the address is, by the files of `state.geo`. What they do not know is `()`.",
            geo,
        )
        .example(r#"req.client.geo.country == "SE""#)
        .get("geo.country", "As ISO 3166-1 has it.", |g: &mut Geo| text(&g.0.location.country))
        .example(r#"["SE", "NO"].contains(req.client.geo.country)"#)
        .get("geo.region", "As ISO 3166-2 has it, without the country.", |g: &mut Geo| {
            text(&g.0.location.region)
        })
        .example(r#"req.client.geo.region == "AC""#)
        .get("geo.city", "In English.", |g: &mut Geo| text(&g.0.location.city))
        .example(r#"req.client.geo.city == "Umeå""#)
        .get("geo.continent", "Two letters.", |g: &mut Geo| text(&g.0.location.continent))
        .example(r#"req.client.geo.continent == "EU""#)
        .get("geo.lat", "Degrees north.", |g: &mut Geo| number(g.0.location.lat))
        .example("req.client.geo.lat > 63.0")
        .get("geo.lon", "Degrees east.", |g: &mut Geo| number(g.0.location.lon))
        .example("req.client.geo.lon == ()")
        .get("geo.tz", "The time zone.", |g: &mut Geo| text(&g.0.location.tz))
        .example(r#"req.client.geo.tz == "Europe/Stockholm""#)
        .get("geo.asn", "The number of the autonomous system.", |g: &mut Geo| {
            g.0.asn.map_or(Dynamic::UNIT, |asn| i64::from(asn).into())
        })
        .example("req.client.geo.asn == 64500")
        .get("geo.eu", "Whether the country is in the European Union.", |g: &mut Geo| {
            g.0.location.eu().map_or(Dynamic::UNIT, Into::into)
        })
        .example("req.client.geo.eu");
}

fn geo(context: NativeCallContext, client: &mut ClientHandle) -> Outcome<Geo> {
    let state = State::of(&context)?;
    if !state.facts().geo {
        return Err(fail("unavailable", "the configuration has no state.geo"));
    }
    let place = state.host()?.place(client.0.ip);
    let place = place.map_err(|error| fail("unavailable", format!("a geo file: {error}")))?;
    Ok(Geo(Arc::new(place)))
}
