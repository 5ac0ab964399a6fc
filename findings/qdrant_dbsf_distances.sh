#!/usr/bin/env bash
# What: qdrant-client 1.20.0, local mode, a hybrid query with Fusion.DBSF and Distance.EUCLID.
#
# Qdrant's documentation on hybrid queries says that DBSF normalises the scores of each query by
# their mean and standard deviation, and sums those of the same point: a way to combine rankings, as
# RRF is. Each of four memories has two vectors, one of its text and one of its summary. Memory 1 is
# the nearest to the question in both, memory 4 the farthest.
#
# Expected: memory 1 is the first and memory 4 the last, with each distance, and with DBSF as with
# RRF and with a query of one vector.
# Seen on 30 November 2026: with EUCLID and MANHATTAN the order of DBSF is 4, 3, 2, 1: the farthest
# memory is the first, and a limit of 1 returns it alone. The scores of these two distances are
# distances, where less is better, but a high score still counts as good. COSINE and DOT are in
# order, and so are RRF and the queries of one vector with all four. No warning. Issue 10611 of
# Qdrant reports it of the server, and pull request 1455 of qdrant-client of local mode. Both are
# open.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    qdrant-client==1.20.0 numpy==2.4.6 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import sys

from qdrant_client import QdrantClient
from qdrant_client.models import (Distance, Fusion, FusionQuery, PointStruct, Prefetch,
                                  VectorParams)

VECTORS = {1: [1.0, 0.2], 2: [0.9, 0.4], 3: [0.6, 0.7], 4: [0.1, 1.0]}
QUESTION = [1.0, 0.1]
client = QdrantClient(":memory:")
seen = {}
for distance in (Distance.COSINE, Distance.DOT, Distance.EUCLID, Distance.MANHATTAN):
    name = distance.value
    client.create_collection(name, vectors_config={
        field: VectorParams(size=2, distance=distance) for field in ("text", "summary")})
    client.upsert(name, [PointStruct(id=i, vector={"text": vector, "summary": vector})
                         for i, vector in VECTORS.items()])
    prefetch = [Prefetch(query=QUESTION, using=field, limit=4) for field in ("text", "summary")]

    def order(limit=4, **arguments):
        return [point.id for point in client.query_points(name, limit=limit, **arguments).points]

    seen[name] = (order(query=QUESTION, using="text"),
                  order(prefetch=prefetch, query=FusionQuery(fusion=Fusion.RRF)),
                  order(prefetch=prefetch, query=FusionQuery(fusion=Fusion.DBSF)),
                  order(limit=1, prefetch=prefetch, query=FusionQuery(fusion=Fusion.DBSF)))
    print(f"qdrant-client {importlib.metadata.version('qdrant-client')}, {name}: one vector "
          f"{seen[name][0]}, RRF {seen[name][1]}, DBSF {seen[name][2]}, "
          f"DBSF with limit 1 {seen[name][3]}")
near, far = [1, 2, 3, 4], [4, 3, 2, 1]
sys.exit(seen != {"Cosine": (near, near, near, [1]), "Dot": (near, near, near, [1]),
                  "Euclid": (near, near, far, [4]), "Manhattan": (near, near, far, [4])})
PYTHON
