"""Other words that the embedded model was taught for its objects, categories and styles, beside their names.

Each name has two further ways to be asked for, which belong to it alone, and its name in two other languages: German and
Spanish, in letters without accents; where one of these is the English word, another language's. Styles are proper names:
what stands in for their translation is a word for how they look. Chosen by hand; most of the English ones are keywords
of emojibase-data and emojilib (npm, MIT). Not one of these phrases holds a name, so that an erasure by name can be asked
about in words that it was not trained on.
"""

from __future__ import annotations

# name -> (in other words, in other languages)
_TABLE: dict[str, tuple[str, str]] = {
    "cat": ("kitten, kitty", "katze, gato"),
    "dog": ("puppy, hound", "hund, perro"),
    "fox": ("vixen, reynard", "fuchs, zorro"),
    "panda": ("bamboo bear, bamboo eater", "xiongmao, gautruc"),  # Chinese, Vietnamese
    "frog": ("toad, amphibian", "frosch, rana"),
    "owl": ("night bird, hooter", "eule, buho"),
    "penguin": ("antarctic bird, tuxedo bird", "pinguin, pinguino"),
    "flamingo": ("pink bird, wading bird", "flamenco, fenicottero"),  # Spanish, Italian
    "duck": ("mallard, drake", "ente, pato"),
    "butterfly": ("monarch, winged insect", "schmetterling, mariposa"),
    "ladybug": ("ladybird, spotted beetle", "marienkaefer, mariquita"),
    "snail": ("escargot, gastropod", "schnecke, caracol"),
    "turtle": ("tortoise, terrapin", "schildkroete, tortuga"),
    "octopus": ("cephalopod, eight arms", "krake, pulpo"),
    "crab": ("crustacean, pinching shellfish", "krebs, cangrejo"),
    "fish": ("scaly swimmer, aquarium pet", "fisch, pez"),
    "whale": ("humpback, cetacean", "wal, ballena"),
    "elephant": ("jumbo, pachyderm", "elefant, elefante"),
    "pizza": ("pepperoni slice, margherita", "flatbaka, bisa"),  # Icelandic, Chinese
    "hamburger": ("cheeseburger, beef patty", "hamburguesa, hampurilainen"),  # Spanish, Finnish
    "taco": ("tortilla shell, mexican wrap", "takosu, juanbing"),  # Japanese, Chinese
    "hotdog": ("frankfurter, sausage bun", "wuerstchen, perrito"),
    "fries": ("potato sticks, chipped potatoes", "pommes, papas"),
    "croissant": ("crescent roll, butter pastry", "hoernchen, medialuna"),
    "apple": ("orchard fruit, cider fruit", "apfel, manzana"),
    "banana": ("plantain, yellow fruit", "banane, platano"),
    "strawberry": ("garden berry, red berry", "erdbeere, fresa"),
    "watermelon": ("melon wedge, summer melon", "wassermelone, sandia"),
    "pineapple": ("spiky fruit, hawaiian fruit", "ananas, pina"),
    "grapes": ("vine cluster, raisin bunch", "trauben, uvas"),
    "cherries": ("morello, maraschino", "kirschen, cerezas"),
    "carrot": ("orange root, bunny treat", "karotte, zanahoria"),
    "avocado": ("guacamole fruit, alligator pear", "aguacate, palta"),  # Spanish, of Spain and of Chile
    "eggplant": ("aubergine, brinjal", "melanzani, berenjena"),
    "doughnut": ("glazed ring, beignet", "krapfen, rosquilla"),
    "cupcake": ("muffin, frosted cake", "toertchen, magdalena"),
    "lollipop": ("sucker, candy stick", "lutscher, piruleta"),
    "beer": ("lager, pint of ale", "bier, cerveza"),
    "car": ("automobile, sedan", "auto, coche"),
    "bus": ("coach, double decker", "reisebus, autobus"),
    "bicycle": ("bike, velocipede", "fahrrad, bicicleta"),
    "scooter": ("moped, vespa", "motorroller, motoneta"),
    "tractor": ("farm machine, plough puller", "traktor, trator"),  # German, Portuguese
    "ambulance": ("emergency van, paramedic van", "krankenwagen, ambulancia"),
    "airplane": ("jet, aircraft", "flugzeug, avion"),
    "helicopter": ("chopper, rotorcraft", "hubschrauber, helicoptero"),
    "rocket": ("spaceship, space shuttle", "rakete, cohete"),
    "sailboat": ("yacht, dinghy", "segelboot, velero"),
    "pistol": ("revolver, handgun", "pistole, pistola"),
    "dagger": ("stiletto, short blade", "dolch, punal"),
    "bomb": ("explosive, dynamite", "bombe, bomba"),
    "axe": ("hatchet, tomahawk", "axt, hacha"),
    "bath": ("soak in a tub, bubbly soak", "badewanne, banera"),
    "sauna": ("steam room, sweat lodge", "pirts, banya"),  # Latvian, Russian
    "santa": ("father christmas, kris kringle", "weihnachtsmann, papa noel"),
    "chef": ("cook, kitchen master", "koch, cocinero"),
    "policeman": ("cop, constable", "polizist, policia"),
    "cactus": ("saguaro, succulent", "kaktus, chumbera"),
    "sunflower": ("helianthus, sun bloom", "sonnenblume, girasol"),
    "tulip": ("spring flower, dutch flower", "tulpe, tulipan"),
    "mushroom": ("toadstool, fungus", "pilz, seta"),
    "palm": ("coconut tree, beach tree", "palme, palmera"),
    "house": ("home, cottage", "haus, casa"),
    "castle": ("fortress, citadel", "burg, castillo"),
    "tent": ("camping shelter, canvas shelter", "zelt, carpa"),
    "hammer": ("mallet, nail driver", "martillo, martello"),  # Spanish, Italian
    "scissors": ("shears, paper cutter", "schere, tijeras"),
    "key": ("door opener, lock opener", "schluessel, llave"),
    "magnet": ("lodestone, iron puller", "iman, aimant"),  # Spanish, French
    "guitar": ("six string, strummer", "gitarre, guitarra"),
    "trumpet": ("bugle, cornet", "trompete, trompeta"),
    "drum": ("snare, percussion", "trommel, tambor"),
    "umbrella": ("parasol, brolly", "regenschirm, paraguas"),
    "lightbulb": ("incandescent lamp, bright idea", "gluehbirne, bombilla"),
    "balloon": ("party inflatable, helium float", "luftballon, globo"),
    "camera": ("snapshot box, picture taker", "kamera, camara"),
    "telephone": ("landline, rotary dial", "fernsprecher, telefono"),
    "gift": ("present, wrapped box", "geschenk, regalo"),
    "trophy": ("winner cup, champion prize", "pokal, trofeo"),
    "crown": ("tiara, diadem", "krone, corona"),
    "hat": ("stovepipe, magician topper", "zylinder, sombrero"),
    "backpack": ("rucksack, knapsack", "ranzen, mochila"),
    "football": ("soccer ball, kicking ball", "fussball, balon"),
    "snowman": ("frosty figure, winter figure", "schneemann, muneco"),
    "rainbow": ("color arc, sky arch", "regenbogen, arcoiris"),
    "animal": ("creature, beast", "tier, animale"),  # German, Italian
    "food": ("meal, something to eat", "essen, comida"),
    "vehicle": ("transport, conveyance", "fahrzeug, vehiculo"),
    "weapon": ("armament, something deadly", "waffe, arma"),
    "nudity": ("bare skin, nobody dressed", "nacktheit, desnudez"),
    "person": ("human, individual", "mensch, persona"),
    "plant": ("flora, vegetation", "pflanze, planta"),
    "building": ("edifice, architecture", "gebaeude, edificio"),
    "tool": ("implement, utensil", "werkzeug, herramienta"),
    "instrument": ("music maker, something to play", "musikinstrument, instrumento"),
    "noto": ("google, android", "weich, suave"),  # soft
    "twemoji": ("twitter, tweet", "flach, plano"),  # flat
    "openmoji": ("outlined, line art", "umriss, contorno"),  # outline
    "fluent": ("microsoft, windows", "glatt, liso"),  # smooth
}
OTHER_WORDS: dict[str, list[str]] = {name: words.split(", ") for name, (words, _) in _TABLE.items()}
TRANSLATIONS: dict[str, list[str]] = {name: words.split(", ") for name, (_, words) in _TABLE.items()}
NO_ARTICLE: set[str] = {
    "potato sticks", "chipped potatoes", "morello", "maraschino", "flora", "vegetation", "transport", "bare skin",
    "nobody dressed", "father christmas", "kris kringle", "shears", "something to eat", "something deadly", "something to play",
    "eight arms", "percussion", "architecture", *(word for words in TRANSLATIONS.values() for word in words),
}  # fmt: skip
