#!/bin/sh
# Writes an overlay's secrets, which git ignores, each value made anew:
#   sh deployments/kubernetes/make_secrets.sh deployments/kubernetes/overlays/trial
# Where there is a store of secrets, let External Secrets or Sealed Secrets make the same objects instead.
set -eu
folder="$1/secrets"
mkdir -p "$folder"
umask 077
made() { python3 -c 'import secrets; print(secrets.token_urlsafe(24))'; }
prefect=$(made) mlflow=$(made) redis=$(made) session=$(made) key=$(made) feedback=$(made)
s3=$(made) administrator=$(made) prefect_database=$(made) mlflow_database=$(made) labline_database=$(made)
cat > "$folder/prefect.env" <<END
PREFECT_SERVER_API_AUTH_STRING=labline:$prefect
PREFECT_SERVER_DATABASE_PASSWORD=$prefect_database
PREFECT_REDIS_MESSAGING_PASSWORD=$redis
PREFECT_SERVER_DOCKET_URL=redis://:$redis@redis:6379/0
END
cat > "$folder/mlflow.env" <<END
MLFLOW_AUTH_ADMIN_USERNAME=labline
MLFLOW_AUTH_ADMIN_PASSWORD=$mlflow
MLFLOW_FLASK_SERVER_SECRET_KEY=$session
PGPASSWORD=$mlflow_database
AWS_ACCESS_KEY_ID=labline
AWS_SECRET_ACCESS_KEY=$s3
END
cat > "$folder/clients.env" <<END
PREFECT_API_AUTH_STRING=labline:$prefect
MLFLOW_TRACKING_USERNAME=labline
MLFLOW_TRACKING_PASSWORD=$mlflow
PGPASSWORD=$labline_database
AWS_ACCESS_KEY_ID=labline
AWS_SECRET_ACCESS_KEY=$s3
LABLINE_SERVING_KEY=$key
LABLINE_FEEDBACK_KEY=$feedback
END
cat > "$folder/databases.env" <<END
POSTGRES_PASSWORD=$administrator
PREFECT_DATABASE_PASSWORD=$prefect_database
MLFLOW_DATABASE_PASSWORD=$mlflow_database
LABLINE_DATABASE_PASSWORD=$labline_database
REDIS_PASSWORD=$redis
RCLONE_AUTH_KEY="labline,$s3"
END
