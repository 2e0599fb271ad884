//! PostgreSQL from the outside: databases for servers, one INSERT's time, and what its processes cost.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use crate::Done;
use crate::process;

pub struct Postgres {
    /// The address without a database.
    base: String,
    /// The first process, where it runs on this machine.
    postmaster: Option<u32>,
    pub version: String,
    pub data_directory: Option<String>,
}

impl Postgres {
    /// The one that TEST_DATABASE_URL names, which scripts/with-services.sh starts. It must flush what it commits.
    pub async fn connect() -> Done<Self> {
        let url =
            std::env::var("TEST_DATABASE_URL").map_err(|_| "TEST_DATABASE_URL is not set: run `make bench`, which starts PostgreSQL")?;
        let mut connection = PgConnection::connect(&url).await?;
        let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&mut connection).await?;
        if fsync != "on" {
            return Err(format!("PostgreSQL runs with fsync={fsync}: what it commits is not durable").into());
        }
        let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        let postmaster = u32::try_from(backend).ok().and_then(process::postgres_parent);
        let data_directory = sqlx::query_scalar::<_, String>("SHOW data_directory").fetch_one(&mut connection).await.ok();
        let base = url.rsplit_once('/').map_or(url.as_str(), |(base, _)| base).to_owned();
        Ok(Self { base, postmaster, version, data_directory })
    }

    /// A new database's URL.
    pub async fn create(&self) -> Done<String> {
        let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
        self.execute("postgres", &format!("CREATE DATABASE {name}")).await?;
        Ok(format!("{}/{name}", self.base))
    }

    /// Removes a database, with whoever is connected.
    pub async fn drop(&self, url: &str) -> Done<()> {
        let name = url.rsplit_once('/').map_or(url, |(_, name)| name);
        self.execute("postgres", &format!("DROP DATABASE {name} WITH (FORCE)")).await
    }

    /// What was written so far goes to the disk now, not while something is measured.
    pub async fn checkpoint(&self) -> Done<()> {
        self.execute("postgres", "CHECKPOINT").await
    }

    async fn execute(&self, database: &str, statement: &str) -> Done<()> {
        let mut connection = PgConnection::connect(&format!("{}/{database}", self.base)).await?;
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut connection).await?;
        Ok(())
    }

    /// The CPU that all of its processes have taken.
    pub fn cpu(&self) -> Duration {
        self.postmaster.map_or(Duration::ZERO, process::cpu_of_family)
    }

    /// How long one autocommitted INSERT takes on one connection.
    pub async fn insert_time(&self, warm_up: Duration, time: Duration) -> Done<Duration> {
        let mut connection = PgConnection::connect(&format!("{}/postgres", self.base)).await?;
        sqlx::query("CREATE TABLE IF NOT EXISTS insert_probe (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL)")
            .execute(&mut connection)
            .await?;
        let text = "x".repeat(crate::load::TEXT_BYTES);
        let began = Instant::now();
        let (mut from, mut inserted) = (None, 0_u32);
        loop {
            let now = Instant::now();
            if now - began >= warm_up && from.is_none() {
                (from, inserted) = (Some(now), 0);
            }
            if let Some(from) = from
                && now - from >= time
                && inserted > 0
            {
                return Ok((now - from) / inserted);
            }
            sqlx::query("INSERT INTO insert_probe (text) VALUES ($1)").bind(&text).execute(&mut connection).await?;
            inserted += 1;
        }
    }
}
