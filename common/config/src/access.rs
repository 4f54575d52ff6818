//! Users and groups, as the table `[access]` names them.

use std::fmt;
use std::str::FromStr;

/// A user or a group: `alice`, `1000`, `%staff`, `%50`, as `sudoers` writes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// One user.
    User(Account),
    /// All users of a group.
    Group(Account),
}

/// A user or a group by name or by number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Account {
    /// As the system's user database has it.
    Name(String),
    /// As the kernel has it.
    Number(u32),
}

/// Why a text is not a [`Principal`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrincipalError;

impl fmt::Display for PrincipalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a user like \"alice\" or \"1000\", or a group like \"%staff\" or \"%50\"")
    }
}

impl std::error::Error for PrincipalError {}

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        match text.strip_prefix('%') {
            Some(group) => account(group).map(Self::Group),
            None => account(text).map(Self::User),
        }
        .ok_or(PrincipalError)
    }
}

/// Names as `useradd` takes them, with dots and a realm, which directories add.
fn account(text: &str) -> Option<Account> {
    if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) {
        return text.parse().ok().map(Account::Number);
    }
    let fits = |octet: u8| octet.is_ascii_alphanumeric() || b"._-@\\$".contains(&octet);
    let begins = text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    (begins && text.len() <= 256 && text.bytes().all(fits)).then(|| Account::Name(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_go_by_name_or_number() {
        let name = |name: &str| Account::Name(name.to_owned());
        assert_eq!("alice".parse(), Ok(Principal::User(name("alice"))));
        assert_eq!("1000".parse(), Ok(Principal::User(Account::Number(1000))));
        assert_eq!("%mail-admins".parse(), Ok(Principal::Group(name("mail-admins"))));
        assert_eq!("%50".parse(), Ok(Principal::Group(Account::Number(50))));
        for text in ["", "%", "%%x", "a b", "-x", "99999999999", "ann\n", "5x"] {
            assert_eq!(text.parse::<Principal>(), Err(PrincipalError), "{text}");
        }
    }
}
