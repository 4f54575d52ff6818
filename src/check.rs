//! `zrelay check`: reads the configuration and says what is wrong with it.

use zrelay_config::Config;
use zrelay_tls::ServerTls;

use crate::cli::HubOptions;
use crate::{Done, Failure, print};

/// The configuration these options name, or the embedded default.
pub(crate) fn configuration(hub: &HubOptions) -> Result<Config, Failure> {
    match &hub.config {
        Some(path) => Config::load(path).map_err(Failure::new),
        None => Ok(Config::embedded()),
    }
}

pub(crate) fn check(hub: &HubOptions) -> Result<Done, Failure> {
    let config = configuration(hub)?;
    if let Some(tls) = &config.tls {
        ServerTls::from_pem(&tls.certificate, &tls.key).map_err(Failure::new)?;
    }
    let name = hub.config.as_ref().map_or_else(|| "the embedded default".into(), |path| path.display().to_string());
    print::line(format_args!(
        "{name} is valid: {} listener(s), {} route(s), {} thread clause(s), spool in {}",
        config.listen.len(),
        config.routes.len(),
        config.clauses.len(),
        config.spool.display()
    ));
    Ok(Done::Well)
}
