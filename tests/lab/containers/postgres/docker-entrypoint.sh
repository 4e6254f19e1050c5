#!/bin/bash
# Stand-in for the official Postgres image: the same contract of environment, files and arguments
# around the real server, so that a deploy that works here works with the official image.
set -Eeuo pipefail

server_asked_for() {
    local argument
    [ "$1" = postgres ] || return 1
    for argument; do
        case "$argument" in
            -'?' | --help | --describe-config | -V | --version) return 1 ;;
        esac
    done
}

# Exports NAME from itself, or from the file that NAME_FILE names, or from the default given.
value_or_file() {
    local name=$1 file_name=$1_FILE value=${2:-}
    if [ -n "${!name:-}" ] && [ -n "${!file_name:-}" ]; then
        echo >&2 "error: both $name and $file_name are set (but are exclusive)"
        exit 1
    fi
    if [ -n "${!name:-}" ]; then
        value=${!name}
    elif [ -n "${!file_name:-}" ]; then
        value=$(<"${!file_name}")
    fi
    export "$name=$value"
    unset "$file_name"
}

read_settings() {
    value_or_file POSTGRES_PASSWORD
    value_or_file POSTGRES_USER postgres
    value_or_file POSTGRES_DB "$POSTGRES_USER"
    value_or_file POSTGRES_INITDB_ARGS
    export POSTGRES_HOST_AUTH_METHOD=${POSTGRES_HOST_AUTH_METHOD:-}
    export POSTGRES_INITDB_WALDIR=${POSTGRES_INITDB_WALDIR:-}
}

# A fresh bind mount belongs to root: hand it over before root is dropped.
prepare_directories() {
    local directory
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 0700 "$PGDATA" || true
    chmod 3775 /var/run/postgresql || true
    if [ -n "$POSTGRES_INITDB_WALDIR" ]; then
        mkdir -p "$POSTGRES_INITDB_WALDIR"
        chmod 0700 "$POSTGRES_INITDB_WALDIR"
    fi
    [ "$(id -u)" = 0 ] || return 0
    for directory in "$PGDATA" /var/run/postgresql ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"}; do
        find "$directory" \! -user postgres -exec chown postgres '{}' +
    done
}

require_password() {
    if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
        cat >&2 <<'END'
Error: Database is uninitialized and superuser password is not specified.
       Set POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE) to a non-empty value, or
       POSTGRES_HOST_AUTH_METHOD=trust to let every connection in without a password.
END
        exit 1
    fi
    if [ "$POSTGRES_HOST_AUTH_METHOD" = trust ]; then
        echo >&2 'WARNING: POSTGRES_HOST_AUTH_METHOD=trust: anyone who reaches the port is let in.'
    fi
}

sql() {
    PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc \
        --username "$POSTGRES_USER" "$@"
}

run_init_files() {
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        case "$file" in
            *.sh)
                if [ -x "$file" ]; then
                    echo "$0: running $file"
                    "$file"
                else
                    echo "$0: sourcing $file"
                    # shellcheck source=/dev/null
                    . "$file"
                fi
                ;;
            *.sql) echo "$0: running $file"; sql --dbname "$POSTGRES_DB" -f "$file" ;;
            *.sql.gz) echo "$0: running $file"; gunzip -c "$file" | sql --dbname "$POSTGRES_DB" ;;
            */\*) ;;
            *) echo "$0: ignoring $file" ;;
        esac
    done
}

initialise() {
    local -a initdb_arguments server_arguments=("$@")
    require_password
    # POSTGRES_INITDB_ARGS is shell text in the official image too: quotes in it group words.
    eval "initdb_arguments=($POSTGRES_INITDB_ARGS)"
    if [ -n "$POSTGRES_INITDB_WALDIR" ]; then
        initdb_arguments+=(--waldir "$POSTGRES_INITDB_WALDIR")
    fi
    # Through a descriptor, so that the password is never in a process's arguments.
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
        "${initdb_arguments[@]}"
    # The official image's server has this as its default; that of release 16 here would use /tmp.
    printf "unix_socket_directories = '/var/run/postgresql'\n" >>"$PGDATA/postgresql.conf"

    local method=$POSTGRES_HOST_AUTH_METHOD
    [ -n "$method" ] || method=$(postgres -C password_encryption "${server_arguments[@]}")
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"

    # The server of this phase listens on the socket only: a client that waits for the TCP port
    # must not meet a half-made database.
    export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
    PGUSER=${PGUSER:-$POSTGRES_USER} pg_ctl -D "$PGDATA" -w start \
        -o "$(printf '%q ' "${server_arguments[@]}" -c listen_addresses='' -p "${PGPORT:-5432}")"
    if [ -z "$(sql --dbname postgres --set db="$POSTGRES_DB" --tuples-only \
        <<<"SELECT 1 FROM pg_database WHERE datname = :'db';")" ]; then
        sql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
    fi
    run_init_files
    PGUSER=${PGUSER:-postgres} pg_ctl -D "$PGDATA" -m fast -w stop
    unset PGPASSWORD
    printf '\nPostgreSQL init process complete; ready for start up.\n\n'
}

main() {
    if [ "${1:0:1}" = - ]; then
        set -- postgres "$@"
    fi
    if server_asked_for "$@"; then
        read_settings
        if [ "$(id -u)" = 0 ]; then
            prepare_directories
            export HOME=/var/lib/postgresql
            exec setpriv --reuid=postgres --regid=postgres --init-groups "${BASH_SOURCE[0]}" "$@"
        fi
        echo "stand-in for docker.io/library/postgres:$PG_MAJOR (real server)"
        prepare_directories
        if [ -s "$PGDATA/PG_VERSION" ]; then
            printf '\nPostgreSQL Database directory appears to contain a database; %s\n\n' \
                'Skipping initialization'
        else
            initialise "${@:2}"
        fi
    fi
    exec "$@"
}

main "$@"
