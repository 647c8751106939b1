//! `identity`: what SVID would I get from this socket, which bundles; if none, why.

use std::{
    io::{self, Write},
    time::Duration,
};

use identity::{
    Material, Trust,
    material::rfc3339,
    source::{WorkloadEndpoint, fetch},
};
use serde_json::{Value, json};

use crate::cli::Output;

/// Asks, and prints; gives the exit status: 0 with an SVID, 1 without, 2 for an address that is none.
pub async fn run(
    socket: Option<String>,
    deadline: Duration,
    output: Output,
    out: &mut dyn Write,
) -> io::Result<u8> {
    let endpoint = match socket.as_deref().map(str::parse::<WorkloadEndpoint>) {
        Some(Ok(endpoint)) => endpoint,
        Some(Err(why)) => {
            writeln!(io::stderr(), "selvedge-ingress identity: {why}")?;
            return Ok(2);
        }
        None => {
            let how = "no Workload API is named; give --spiffe-socket or SPIFFE_ENDPOINT_SOCKET";
            writeln!(io::stderr(), "selvedge-ingress identity: {how}")?;
            return Ok(2);
        }
    };
    match (fetch(&endpoint, deadline).await, output) {
        (Ok((material, left_out)), Output::Json) => {
            writeln!(out, "{:#}", describe(&material, &left_out)).map(|()| 0)
        }
        (Ok((material, left_out)), Output::Text) => text(&material, &left_out, out).map(|()| 0),
        (Err(error), Output::Json) => {
            writeln!(out, "{:#}", json!({"svids": [], "bundles": [], "error": error.to_string()})).map(|()| 1)
        }
        (Err(error), Output::Text) => writeln!(io::stderr(), "no identity: {error}").map(|()| 1),
    }
}

fn describe(material: &Material, left_out: &[String]) -> Value {
    let svids: Vec<_> = material
        .own
        .iter()
        .map(|own| {
            json!({
                "spiffe_id": own.spiffe_id.as_ref().map(ToString::to_string),
                "hint": own.hint,
                "serial": own.serial,
                "not_before": rfc3339(own.not_before),
                "not_after": rfc3339(own.not_after),
                "certificates": own.chain.len(),
            })
        })
        .collect();
    let bundles: Vec<_> = bundles(material)
        .map(|(domain, bundle)| {
            json!({"trust_domain": domain.to_string(), "authorities": bundle.authorities.len(), "crls": bundle.crls.len()})
        })
        .collect();
    json!({"svids": svids, "bundles": bundles, "left_out": left_out})
}

fn bundles(material: &Material) -> impl Iterator<Item = (&identity::TrustDomain, &identity::Bundle)> {
    let bundles = match material.trust.as_deref() {
        Some(Trust::Spiffe(bundles)) => Some(bundles),
        _ => None,
    };
    bundles.into_iter().flatten()
}

fn text(material: &Material, left_out: &[String], out: &mut dyn Write) -> io::Result<()> {
    for own in &material.own {
        let id = own.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default();
        writeln!(out, "SVID      {id}")?;
        writeln!(out, "          serial {}, until {}", own.serial, rfc3339(own.not_after))?;
        if let Some(hint) = &own.hint {
            writeln!(out, "          hint {hint}")?;
        }
    }
    for (domain, bundle) in bundles(material) {
        writeln!(out, "bundle    {domain}: {} authorities", bundle.authorities.len())?;
    }
    for why in left_out {
        writeln!(out, "left out  {why}")?;
    }
    Ok(())
}
