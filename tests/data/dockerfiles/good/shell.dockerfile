FROM a
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
SHELL ["powershell", "-command"]
