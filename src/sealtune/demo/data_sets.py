"""The demo data sets by name.

Trust domain: data owner's machine, before a run.
"""

from sealtune.demo.drug_reviews import DRUG_REVIEWS
from sealtune.demo.hpo import HPO
from sealtune.demo.icd10 import ICD10
from sealtune.demo.medmcqa import MEDMCQA
from sealtune.demo.pubmedqa import PUBMEDQA

DATA_SETS = {data_set.name: data_set for data_set in (ICD10, HPO, MEDMCQA, PUBMEDQA, DRUG_REVIEWS)}
