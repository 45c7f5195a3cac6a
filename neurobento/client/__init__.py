"""A service that parcellates, used from elsewhere: over HTTP or over gRPC, the same way.

with Client("http://127.0.0.1:3000", timeout_s=1800) as client:
    answer = client.parcellate(Path("head.nii.gz"))
    Path("head_dseg.nii.gz").write_bytes(answer.dseg)
"""

from neurobento.client.exchange import Answer
from neurobento.client.retries import Retries
from neurobento.client.session import Client

__all__ = ["Answer", "Client", "Retries"]
