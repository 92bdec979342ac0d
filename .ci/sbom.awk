# Writes a bill of materials in CycloneDX 1.5: the crates that the program is made of on this platform.
#
#   cargo tree --edges normal --prefix depth --format '|{p}|{l}|{r}' > linked
#   cargo tree --edges normal,build --prefix depth --format '|{p}|{l}|{r}' > built
#   awk -f sbom.awk Cargo.lock linked built
#
# It follows `cargo tree`, because `cargo metadata` and the tools on top of it also name crates that a dependency only
# mentions, such as those of features that are off. The hashes are those of Cargo.lock. A crate that is used by build
# scripts alone has the scope "excluded".

# "name v1.2.3 (proc-macro)" and "name v1.2.3 (*)" to the identity of the crate.
function identity(package, words) {
    split(package, words, " ")
    return words[1] "@" substr(words[2], 2)
}

function text(value) {
    gsub(/["\\]/, "\\\\&", value)
    return "\"" value "\""
}

function reference(crate) {
    return text("pkg:cargo/" crate)
}

FNR == 1 { file++ }

file == 1 && /^name = / { name = $3; gsub(/"/, "", name) }
file == 1 && /^version = / { version = $3; gsub(/"/, "", version) }
file == 1 && /^checksum = / { checksum = $3; gsub(/"/, "", checksum); hashes[name "@" version] = checksum }

file == 2 { split($0, field, "|"); linked[identity(field[2])] = 1 }

file == 3 {
    split($0, field, "|")
    crate = identity(field[2])
    depth = field[1] + 0
    path[depth] = crate
    if (!(crate in license)) {
        order[++crates] = crate
        license[crate] = field[3]
        repository[crate] = field[4]
        # An older form of the expression.
        gsub(/ *\/ */, " OR ", license[crate])
        sub(/ \(\*\)$/, "", license[crate])
        sub(/ \(\*\)$/, "", repository[crate])
    }
    if (depth > 0 && !((path[depth - 1], crate) in known)) {
        known[path[depth - 1], crate] = 1
        needs[path[depth - 1]] = needs[path[depth - 1]] (needs[path[depth - 1]] ? ", " : "") reference(crate)
    }
}

function component(crate, type, words) {
    split(crate, words, "@")
    printf "{\"type\": %s, \"bom-ref\": %s, \"name\": %s, \"version\": %s", \
        text(type), reference(crate), text(words[1]), text(words[2])
    printf ", \"purl\": %s, \"scope\": %s", reference(crate), crate in linked ? "\"required\"" : "\"excluded\""
    if (crate in hashes) printf ", \"hashes\": [{\"alg\": \"SHA-256\", \"content\": %s}]", text(hashes[crate])
    if (license[crate]) printf ", \"licenses\": [{\"expression\": %s}]", text(license[crate])
    if (repository[crate])
        printf ", \"externalReferences\": [{\"type\": \"vcs\", \"url\": %s}]", text(repository[crate])
    printf "}"
}

END {
    print "{\"bomFormat\": \"CycloneDX\", \"specVersion\": \"1.5\", \"version\": 1,"
    printf "\"metadata\": {\"component\": "
    component(order[1], "application")
    print "},\n\"components\": ["
    for (i = 2; i <= crates; i++) {
        component(order[i], "library")
        print i < crates ? "," : ""
    }
    print "],\n\"dependencies\": ["
    for (i = 1; i <= crates; i++)
        print "{\"ref\": " reference(order[i]) ", \"dependsOn\": [" needs[order[i]] "]}" (i < crates ? "," : "")
    print "]}"
}
