#!/usr/bin/env bash
# What: langchain-classic 1.0.8, TimeWeightedVectorStoreRetriever with a filter on the speaker.
#
# The class "combines embedding similarity with recency in retrieving values", as Generative Agents
# (Park et al. 2023) do. Of search_kwargs it says: "Keyword arguments to pass to the `VectorStore`
# similarity search." A filter is such an argument. Anna told two facts ten days ago. Ben and Cleo
# told one each just now. The filter asks for Anna's.
#
# Expected: "In which city does Anna live?" finds memories of Anna only.
# Seen on 30 November 2026: it finds those of Ben and Cleo, and none of Anna. Besides the results
# of the search, the retriever ranks the k memories that were added last, whatever the filter says.
# A fresh memory gets almost 1 for its recency, more than Anna's best one gets in all. So a filter,
# or a threshold of the search, hides nothing that was told a moment ago. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    langchain-classic==1.0.8 langchain-core==1.8.3 numpy==2.4.6 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from datetime import datetime, timedelta

import numpy as np
from langchain_classic.retrievers import TimeWeightedVectorStoreRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

WORDS = "anna lives in oslo likes tea ben has a dog cleo plays flute which city does live".split()


class CountWords(Embeddings):
    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        counts = np.array([text.lower().strip("?").split().count(word) for word in WORDS])
        return (counts / np.linalg.norm(counts)).tolist()


class Store(InMemoryVectorStore):
    def _select_relevance_score_fn(self):
        return lambda cosine: cosine


QUERY = "In which city does Anna live?"
now = datetime.now()
old = now - timedelta(days=10)
store = Store(CountWords())
options = {"k": 10, "filter": lambda document: document.metadata["speaker"] == "anna"}
retriever = TimeWeightedVectorStoreRetriever(vectorstore=store, k=2, search_kwargs=options)
for text, speaker, time in (
        ("Anna lives in Oslo", "anna", old), ("Anna likes tea", "anna", old),
        ("Ben has a dog", "ben", now), ("Cleo plays flute", "cleo", now)):
    said = {"speaker": speaker, "created_at": time, "last_accessed_at": time}
    retriever.add_documents([Document(text, metadata=said)])
plain = [document.page_content for document in store.similarity_search(QUERY, **options)]
found = [document.page_content for document in retriever.invoke(QUERY)]
print(f"langchain-classic 1.0.8, filter on Anna: the vector store finds {plain}, "
      f"the time-weighted retriever {found}")
sys.exit(plain != ["Anna lives in Oslo", "Anna likes tea"]
         or sorted(found) != ["Ben has a dog", "Cleo plays flute"])
PYTHON
