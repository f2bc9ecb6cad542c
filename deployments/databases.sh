#!/bin/sh
# A role and a database for each of Prefect, MLflow and labline, on a PostgreSQL server that has none yet. Run by the
# image of PostgreSQL on its first start; psql takes the passwords from the environment, so no command has them.
set -eu
for role in prefect mlflow labline; do
    password="$(echo "$role" | tr '[:lower:]' '[:upper:]')_DATABASE_PASSWORD"
    psql --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres --quiet <<SQL
\getenv password $password
CREATE ROLE $role LOGIN PASSWORD :'password';
CREATE DATABASE $role OWNER $role;
SQL
done
