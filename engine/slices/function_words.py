"""Function words (articles, pronouns, prepositions, conjunctions, auxiliaries) of languages written with an alphabet.

A word may serve in one language and mean something in another (German `die`), so the language of a text is decided
first, by whose function words it has most of. Chinese and other scripts without spaces are not split into words at all.
"""

from __future__ import annotations

from collections.abc import Iterable

_ENGLISH = """
a about above across after against all along although am among an and another any anybody anyone anything are aren't
around as at be because been before behind being below beneath beside besides between beyond both but by can can't
cannot could couldn't despite did didn't do does doesn't doing don't down during each either else enough even ever
every everybody everyone everything except few for from had hadn't has hasn't have haven't having he he's her here hers
herself him himself his how however i i'd i'll i'm i've if in inside into is isn't it it's its itself just least less
let's like many may me might mine more most much must my myself neither no nobody none nor not nothing now of off on
once one only onto or other others our ours ourselves out outside over own per rather same shall she she's should
shouldn't since so some somebody someone something such than that that's the their theirs them themselves then there
there's therefore these they they'd they'll they're they've this those though through throughout thus to too toward
towards under unless until up upon us very via was wasn't we we'd we'll we're we've were weren't what when where
whereas whether which while who whoever whom whose why will with within without won't would wouldn't yet you you'd
you'll you're you've your yours yourself yourselves
"""
_GERMAN = """
ab aber alle allem allen aller alles als also am an ander andere anderen auch auf aus bei beim bis bist da dabei dadurch
dafür damit dann daran darauf daraus darin darüber das dass davon dazu dein deine dem den denn der deren des dessen dich
die dies diese diesem diesen dieser dieses dir doch dort du durch ein eine einem einen einer eines einige er es etwas
euch euer für gegen hab habe haben hat hatte hatten hier hin hinter ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im in
indem ins ist ja jede jedem jeden jeder jedes jedoch jene kann kein keine keinen können könnte man manche mehr mein
meine mich mir mit muss müssen nach nicht nichts noch nun nur ob oder ohne sehr sein seine seinem seinen seiner seit
sich sie sind so sogar solche soll sollen sollte sondern sonst sowie über um und uns unser unter viel vom von vor wann
war waren warum was weil welche welcher welches wenn wer werden wie wieder will wir wird wo wollen worden wurde wurden
während würde würden zu zum zur zwar zwischen
"""
_FRENCH = """
à afin ai ainsi alors après as au aucun aucune aussi autre autres aux avait avant avec avez avoir avons c'est car ce
ceci cela celle celles celui cependant ces cet cette ceux chaque chez comme comment d dans de depuis des donc dont du
elle elles en encore entre es est et était étaient été être eu eux fait fut il ils j je jusque l la le les leur leurs
lors lorsque lui là m ma mais me même mes moi moins mon n ne ni non nos notre nous on ont ou où par parce pas pendant
peu peut peuvent plus pour pourquoi puis qu quand que quel quelle quelles quels qui quoi s sa sans se selon ses si son
sont sous sur t ta te tes toi ton tous tout toute toutes très tu un une vers vos votre vous y
"""
_SPANISH = """
a al algo alguna algunas alguno algunos ante antes aquel aquella así aun aunque cada casi como con contra cual cuales
cuando cuyo de del desde donde dos durante e el él ella ellas ellos en entre era eran es esa esas ese eso esos esta
está están estas este esto estos fue fueron ha había han hasta hay la las le les lo los más me mi mientras mis mucho
muchos muy nada ni no nos nosotros nuestra nuestro o otra otras otro otros para pero poco por porque puede pueden pues
que qué quien quienes se sea según ser si sí sido sin sino sobre son su sus también tan tanto te tiene tienen todo toda
todas todos tu tus u un una unas uno unos usted ustedes y ya yo
"""
_ITALIAN = """
a ad agli ai al alcuni alla alle allo altra altre altri altro anche ancora avere c c'è che chi ci cioè come con cosa
così cui d da dagli dai dal dalla dalle dallo de degli dei del dell della delle dello dentro di dopo dove dunque e è ed
era erano essere fa fino fra fu gli ha hanno i il in infatti io l la le lei li lo loro lui ma mentre mi mia mio molti
molto ne negli nei nel nella nelle nello noi non nostra nostro o ogni oltre oppure per perché però più poi possono può
qual quale quali quando quanto quella quelle quelli quello questa queste questi questo qui quindi se secondo sei sempre
senza si sia siamo sono sopra sotto sta stata stati stato su sua sue sugli sui sul sulla sulle suo suoi tra tu tutta
tutte tutti tutto un un'altra una uno verso vi voi
"""
_PORTUGUESE = """
a à ainda além algum alguma alguns ao aos após aquela aquele as às assim até cada com como contra da das de dela dele
deles depois desde dessa desse desta deste do dos durante e é ela elas ele eles em embora enquanto então entre era eram
essa essas esse esses esta está estão estas este estes eu foi foram há isso isto já lhe lhes mais mas me mesmo meu
minha muito muitos na nas nem no nos nós nossa nosso num numa não o onde os ou outra outras outro outros para pela
pelas pelo pelos pode podem por porque pouco qual quais quando que quem se seja sem sendo ser seu seus sido são sob
sobre sua suas também te tem têm tinha toda todas todo todos tu um uma umas uns você vocês
"""
_DUTCH = """
aan al alle alleen als andere bent bij daar dan dat de der deze die dit doch doen door dus een eens en er ge geen haar
had heb hebben heeft hem het hier hij hoe hun ik in is ja je kan konden kunnen maar me meer men met mij mijn moet na
naar niet niets nog nu of om omdat onder ons onze ook op over tegen te toch toen tot u uit uw van veel voor waar waren
was wat we wel welke werd werden wezen wie wij wil worden wordt zal ze zelf zich zij zijn zo zonder zou
"""
FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "en": frozenset(_ENGLISH.split()),
    "de": frozenset(_GERMAN.split()),
    "fr": frozenset(_FRENCH.split()),
    "es": frozenset(_SPANISH.split()),
    "it": frozenset(_ITALIAN.split()),
    "pt": frozenset(_PORTUGUESE.split()),
    "nl": frozenset(_DUTCH.split()),
}


def function_words_of(words: Iterable[str]) -> frozenset[str]:
    """The function words of the language that a text's words (in lower case) have most of; the first of two on a tie.

    English if there is none, since one of its words may still turn up in what is mostly code.
    """
    listed = list(words)
    return max(FUNCTION_WORDS.values(), key=lambda known: sum(word in known for word in listed))
