//! Origins of pages, as a list by commas.

use crate::model::Origin;

/// Origins, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(pub Vec<Origin>);

pub fn parse_origins(text: &str) -> Result<Origins, String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::parse).collect::<Result<_, _>>().map(Origins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_a_list_and_none_where_the_variable_is_empty() {
        assert_eq!(parse_origins(""), Ok(Origins::default()));
        let two = parse_origins("https://app.example.org, http://localhost:8080").unwrap();
        assert_eq!(two.0, ["https://app.example.org".parse().unwrap(), "http://localhost:8080".parse().unwrap()]);
        assert!(parse_origins("https://app.example.org,*").is_err(), "every page is no list");
    }
}
