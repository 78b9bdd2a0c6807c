"""Recognise biology questions among general ones by their words."""

from __future__ import annotations

import re

_WORDS = r"""
biolog\w* | (?:micro|neuro|physio|cyto|zoo|eco|histo|embryo|immuno|patho|entomo|ornitho)log(?:y|ical|ist)s? | botan\w+
| ecosystems? | biomes? | food\ (?:chain|web)s? | trophic | biodiversity | habitats?
| dna | m?rna | trna | rrna | genes? | genetic\w* | genomes? | genotypes? | phenotypes? | alleles? | chromosom\w+
| mutations? | heredit\w+ | mendel\w* | dominant\ trait | recessive | codons? | nucleotides? | ribosom\w+
| mitochondri\w+ | chloroplasts? | chlorophyll | photosynthe\w+ | golgi | endoplasmic | lysosom\w+ | cytoplasm\w*
| organelles? | eukaryot\w+ | prokaryot\w+ | mitosis | meiosis | cytokinesis | osmosis | nucleus\ of\ (?:a|the)\ cell
| (?:animal|plant|blood|nerve|stem|sperm|egg|human|body|white|red|muscle|skin|brain|immune|t|b|somatic|germ|bacterial)
  \ (?:blood\ )?cells? | cell\ (?:membrane|wall|cycle|division|biology|theory|nucleus)s? | cellular\ respiration
| enzymes? | proteins? | amino\ acids? | peptides? | lipids? | carbohydrates? | glucose
| glycolysis | krebs | metaboli\w+
| hormones? | insulin | adrenal\w* | thyroid | pituitary | hypothalamus | estrogen | testosterone
| bacteri\w+ | virus(?:es)? | fung(?:i|us|al) | microb\w+ | pathogens? | parasit\w+ | antibod(?:y|ies) | antigens?
| lymph\w* | antibiotics? | vaccines?
| hearts?\ (?:valve|chamber|muscle|wall)s? | ventricles? | atri(?:um|a) | aorta | arter(?:y|ies) | veins? | capillar\w+
| hemoglobin | blood\ (?:type|vessel|pressure|flow|plasma)s? | platelets? | circulatory | respiratory
| digesti\w+ | stomach | intestin\w+ | pancrea\w+ | liver | kidneys? | nephrons? | urinary | bladder | spleen
| lungs? | alveoli | diaphragm | trachea | skelet\w+ | vertebra\w* | femur | tibia | cartilage | ligaments? | tendons?
| neurons? | synap\w+ | axons? | cerebell\w+ | cerebr\w+ | cortex | hippocampus | spinal | nervous\ system | retina
| cornea | cochlea | epiderm\w+ | placenta | uterus | ovar(?:y|ies|ian) | fallopian | testes
| embryos? | fetus | zygotes?
| pollinat\w+ | pollen | stamens? | pistil | angiosperm\w* | gymnosperm\w* | xylem | phloem | stomata | germinat\w+
| seeds? | algae | mosses | ferns?
| muscles? | nerves? | blood | brain | vitamins? | diseases? | trees? | birds? | snakes? | sharks? | whales? | bees?
| mammals? | reptiles? | amphibians? | vertebrates? | invertebrates? | arthropods? | insects?
| mollus[ck]s? | crustaceans?
| predators? | prey | herbivores? | carnivores? | omnivores? | hibernat\w+ | metamorphosis | species | taxonom\w+
| phylum | phyla | evolution(?:ary)? | natural\ selection | darwin\w* | fossils? | organisms? | animals? | plants?
"""
_BIOLOGY = re.compile(rf"(?<!\w)(?:{_WORDS})(?!\w)", re.IGNORECASE | re.VERBOSE)

# In these contexts the same words name films, songs, factories and teams.
_OTHER = re.compile(
    r"""(?<!\w)(?: (?:power|nuclear)\ plants? | plant\ city | robert\ plant | animal\ (?:crossing|house|kingdom|farm)
    | blood\ (?:sport|brothers|diamond|and) | true\ blood | new\ blood | bird\ box | angry\ birds? | larry\ bird
    | movies? | films? | songs? | sings? | sang | singer | lyrics | album | bands? | episodes? | tv | show
    | actors? | actress | cast | star(?:s|red|ring)? | novel | wrote | author | who\ (?:plays?|played) | character
    | games? | pokemon | team | super\ bowl | nfl | nba | anime | voice | comics? | marvel | batman | medal | mascot
    | nazi | software | android | iphone | internet | phone | stadium | olympics?
    )(?!\w)""",
    re.IGNORECASE | re.VERBOSE,
)


def is_biology(text: str) -> bool:
    """Whether an English question is about living things. Films, songs and factories are not."""
    return bool(_BIOLOGY.search(text)) and not _OTHER.search(text)
