# The environment of a node's Ray, which replicas and drivers inherit:   . env.sh && ray start …
set -a
. "$HOME/evalservice/deploy/secrets/cluster.env"
# Only who has the token may talk to this Ray.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN_PATH="$HOME/evalservice/deploy/secrets/auth_token"
# HAProxy in front of the replicas, and Serve without the hops that it does not need: five times the throughput. Serve
# reads both when Ray starts.
RAY_SERVE_ENABLE_HA_PROXY=1
RAY_SERVE_THROUGHPUT_OPTIMIZED=1
# A process that reserves no GPU sees all of its node's, as any process outside of Ray does.
RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
# Actors stay below Ray's own processes, but get their turn beside others on a busy node (Ray's default is 15).
RAY_worker_niceness=5
set +a
