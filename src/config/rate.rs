//! Rates as people write them: `100/s burst 500`, `1000/s`; `0` means no limit.

use std::num::NonZeroU32;

use crate::model::{Network, Rate};

/// A rate, or none where there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit(pub Option<Rate>);

/// Networks, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(pub Vec<Network>);

pub fn parse_rate(text: &str) -> Result<RateLimit, String> {
    let wrong = || format!("`{text}` is not a rate like 100/s, 100/s burst 500, or 0 for no limit");
    let number = |text: &str| text.parse::<NonZeroU32>().map_err(|_| wrong());
    let words: Vec<&str> = text.split_whitespace().collect();
    let (rate, burst) = match words.as_slice() {
        ["0"] => return Ok(RateLimit(None)),
        [rate] => (rate, None),
        [rate, "burst", burst] => (rate, Some(burst)),
        _ => return Err(wrong()),
    };
    let per_second = number(rate.strip_suffix("/s").ok_or_else(wrong)?)?;
    let burst = burst.map_or(Ok(per_second), |burst| number(burst))?;
    Ok(RateLimit(Some(Rate { per_second, burst })))
}

pub fn parse_networks(text: &str) -> Result<Networks, String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::parse).collect::<Result<_, _>>().map(Networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Result<RateLimit, String> {
        let number = |number| NonZeroU32::new(number).unwrap();
        Ok(RateLimit(Some(Rate { per_second: number(per_second), burst: number(burst) })))
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        assert_eq!(parse_rate("100/s burst 500"), rate(100, 500));
        assert_eq!(parse_rate(" 100/s  burst 500 "), rate(100, 500));
        assert_eq!(parse_rate("1000/s"), rate(1000, 1000), "without a burst it is the rate");
        assert_eq!(parse_rate("0"), Ok(RateLimit(None)));
        for bad in ["", "100", "0/s", "100/m", "-1/s", "1.5/s", "100/s burst", "100/s burst 0", "100/s 500", "99999999999/s"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_are_a_list_and_none_where_the_variable_is_empty() {
        assert_eq!(parse_networks(""), Ok(Networks::default()));
        assert_eq!(parse_networks("10.0.0.0/8, ::1").unwrap().0, ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()]);
        assert!(parse_networks("10.0.0.0/8;::1").is_err());
    }
}
