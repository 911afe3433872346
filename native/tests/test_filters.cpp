// Filters: each kind of step, the corners of the language, and what is no key.
//
// That they equal predicates.py on every case of the table and on random ones is proved in tests/test_native_parts.py;
// here the same code runs under the sanitizers.

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../filters.h"
#include "check.h"

using namespace realtime;

namespace {

struct Entity {
    std::string id = "bus-7", kind = "bus";
    std::vector<std::pair<std::string, std::string>> properties;

    Entity() = default;
    Entity(std::initializer_list<std::pair<std::string, std::string>> all) : properties(all) {}

    static bool find(const void* self, std::string_view name, Value* value) {
        for (const auto& [own, json] : static_cast<const Entity*>(self)->properties) {
            if (own != name) continue;
            *value = value_of(json);
            return true;
        }
        return false;
    }
};

bool passes(std::string_view key, const Entity& entity) {
    return Filter(key).passes({entity.id, entity.kind, &entity, Entity::find});
}

bool is_key(std::string_view key) {
    try {
        Filter{key};
        return true;
    } catch (const std::invalid_argument&) {
        return false;
    }
}

std::string repeated(std::string_view text, size_t count) {
    std::string all;
    for (size_t i = 0; i < count; ++i) all += text;
    return all;
}

}  // namespace

TEST(a_value_is_classified) {
    CHECK(value_of("null").kind == ValueKind::NUL && value_of("").kind == ValueKind::NUL);
    CHECK(value_of("true").kind == ValueKind::TRUE && value_of("false").kind == ValueKind::FALSE);
    CHECK(value_of("\"\"").kind == ValueKind::STRING && value_of("\"\"").json == "\"\"");
    CHECK(value_of("[]").kind == ValueKind::COMPOUND && value_of("{}").kind == ValueKind::COMPOUND);
    CHECK(value_of("12.5").kind == ValueKind::NUMBER && value_of("12.5").number == 12.5);
    CHECK(value_of("-3").number == -3.0 && value_of("5e-324").number == 5e-324 && value_of("1e308").number == 1e308);
    CHECK(value_of("18446744073709551615").number == 18446744073709551616.0);
    CHECK(value_of("9007199254740993").number == 9007199254740992.0);
    CHECK(value_of("9007199254740995").number == 9007199254740996.0);
    CHECK(value_of("what").kind == ValueKind::COMPOUND && value_of("1x").kind == ValueKind::COMPOUND);
}

TEST(only_true_passes) {
    const Entity entity{{"late", "true"}, {"one", "1"}, {"text", "\"true\""}, {"list", "[true]"}};
    CHECK(passes("true", entity) && passes("[\"get\",\"late\"]", entity) && passes("[\"all\"]", entity));
    for (const char* key : {"false", "null", "1.0", "\"true\"", "[\"literal\"]", "[\"kind\"]", "[\"id\"]", "[\"get\",\"one\"]",
                            "[\"get\",\"text\"]", "[\"get\",\"list\"]", "[\"get\",\"none\"]", "[\"any\"]"}) {
        CHECK(!passes(key, entity));
        CHECK(passes(std::string("[\"!\",") + key + "]", entity));
    }
}

TEST(numbers_compare_as_doubles_and_with_numbers_alone) {
    const Entity entity{{"speed", "12.5"}, {"edge", "9007199254740992"}, {"beyond", "9007199254740993"}, {"yes", "true"},
                        {"text", "\"12.5\""}, {"zero", "0"}};
    CHECK(passes("[\"==\",[\"get\",\"speed\"],12.5]", entity) && passes("[\"==\",12.5,[\"get\",\"speed\"]]", entity));
    CHECK(passes("[\">\",[\"get\",\"speed\"],5.0]", entity) && passes("[\"<\",5.0,[\"get\",\"speed\"]]", entity));
    CHECK(!passes("[\">\",[\"get\",\"speed\"],12.5]", entity) && passes("[\">=\",[\"get\",\"speed\"],12.5]", entity));
    CHECK(passes("[\"<=\",[\"get\",\"speed\"],12.5]", entity) && !passes("[\"<\",[\"get\",\"speed\"],12.5]", entity));
    CHECK(passes("[\"==\",[\"get\",\"edge\"],[\"get\",\"beyond\"]]", entity));
    CHECK(passes("[\"==\",[\"get\",\"zero\"],-0.0]", entity));
    CHECK(!passes("[\"==\",[\"get\",\"yes\"],1.0]", entity) && !passes("[\"==\",[\"get\",\"zero\"],false]", entity));
    for (const char* name : {"yes", "text", "none"}) {
        for (const char* order : {"<", "<=", ">", ">=", "=="}) {
            CHECK(!passes(std::string("[\"") + order + "\",[\"get\",\"" + name + "\"],0.0]", entity));
        }
    }
}

TEST(strings_compare_by_code_point_whatever_their_escapes) {
    const Entity entity{{"quote", "\"a\\\"b\""}, {"nul", "\"a\\u0000\""}, {"line", "\"a\\nb\""}, {"emoji", "\"\xF0\x9F\x98\x80\""},
                        {"bmp", "\"\xEF\xBF\xBF\""}, {"plain", "\"a b\""}};
    CHECK(passes("[\"==\",[\"get\",\"quote\"],\"a\\\"b\"]", entity) && passes("[\"==\",[\"get\",\"quote\"],\"a\\u0022b\"]", entity));
    CHECK(passes("[\"<\",[\"get\",\"nul\"],\"a\\u0000b\"]", entity) && passes("[\">\",[\"get\",\"nul\"],\"a\"]", entity));
    CHECK(passes("[\"<\",[\"get\",\"line\"],[\"get\",\"plain\"]]", entity) && passes("[\"<\",[\"get\",\"line\"],\"a b\"]", entity));
    CHECK(passes("[\">\",[\"get\",\"emoji\"],[\"get\",\"bmp\"]]", entity));
    CHECK(passes("[\">=\",[\"get\",\"quote\"],\"a\\\"b\"]", entity) && !passes("[\">\",[\"get\",\"quote\"],\"a\\\"b\"]", entity));
    CHECK(passes("[\"==\",[\"get\",\"quote\"],[\"get\",\"quote\"]]", entity));
}

TEST(strings_differ_in_whichever_byte) {
    for (size_t length = 1; length <= 40; ++length) {
        const std::string text(length, 'x');
        Entity entity{{"p", "\"" + text + "\""}};
        entity.id = entity.kind = text;
        for (const std::string source : {"[\"get\",\"p\"]", "[\"id\"]", "[\"kind\"]"}) {
            CHECK(passes("[\"==\"," + source + ",\"" + text + "\"]", entity));
            for (size_t at = 0; at < length; ++at) {
                std::string other = text;
                other[at] = 'y';
                CHECK(!passes("[\"==\"," + source + ",\"" + other + "\"]", entity));
                CHECK(!passes("[\"in\"," + source + ",[\"" + other + "\",\"a\"]]", entity));
            }
        }
    }
}

TEST(id_and_kind_are_plain_text) {
    Entity entity{{"same", "\"b\\\"s\""}};
    entity.id = entity.kind = "b\"s";
    for (const std::string source : {"[\"id\"]", "[\"kind\"]"}) {
        CHECK(passes("[\"==\"," + source + ",\"b\\\"s\"]", entity) && !passes("[\"==\"," + source + ",\"bs\"]", entity));
        CHECK(passes("[\"<\"," + source + ",\"bs\"]", entity) && passes("[\">\"," + source + ",\"a\"]", entity));
        CHECK(passes("[\"in\"," + source + ",[1.0,\"b\\\"s\",\"x\"]]", entity));
        CHECK(passes("[\"==\"," + source + ",[\"get\",\"same\"]]", entity));
        CHECK(!passes("[\"==\"," + source + ",null]", entity) && !passes("[\"<\"," + source + ",1.0]", entity));
    }
    entity.kind.clear();
    CHECK(passes("[\"==\",[\"kind\"],null]", entity) && passes("[\"in\",[\"kind\"],[\"a\",null]]", entity));
    CHECK(passes("[\"==\",[\"kind\"],[\"get\",\"none\"]]", entity));
    CHECK(!passes("[\"==\",[\"kind\"],\"\"]", entity) && !passes("[\"<=\",[\"kind\"],\"a\"]", entity));
    CHECK(!passes("[\"in\",[\"kind\"],[\"\",\"a\"]]", entity));
}

TEST(compounds_equal_nothing_and_null_is_missing) {
    const Entity entity{{"list", "[]"}, {"null", "null"}};
    CHECK(!passes("[\"==\",[\"get\",\"list\"],[\"literal\"]]", entity) && passes("[\"!=\",[\"get\",\"list\"],[\"get\",\"list\"]]", entity));
    CHECK(!passes("[\"==\",[\"literal\"],[\"literal\"]]", entity) && !passes("[\"in\",[\"get\",\"list\"],[null,true]]", entity));
    CHECK(!passes("[\"has\",\"null\"]", entity) && !passes("[\"has\",\"none\"]", entity) && passes("[\"has\",\"list\"]", entity));
    CHECK(passes("[\"==\",[\"get\",\"null\"],null]", entity) && passes("[\"==\",[\"get\",\"null\"],[\"get\",\"none\"]]", entity));
}

TEST(truths_are_values_too) {
    const Entity entity{{"yes", "true"}, {"no", "false"}, {"one", "1"}};
    const std::string yes = "[\"has\",\"yes\"]", no = "[\"has\",\"none\"]", get = "[\"get\",\"";
    CHECK(passes("[\"==\"," + yes + "," + yes + "]", entity) && passes("[\"==\"," + no + "," + no + "]", entity));
    CHECK(passes("[\"!=\"," + yes + "," + no + "]", entity) && !passes("[\"==\"," + no + "," + yes + "]", entity));
    CHECK(passes("[\"==\"," + yes + "," + get + "yes\"]]", entity) && passes("[\"==\"," + get + "no\"]," + no + "]", entity));
    CHECK(!passes("[\"==\"," + yes + "," + get + "one\"]]", entity) && !passes("[\"==\"," + no + "," + get + "none\"]]", entity));
    CHECK(!passes("[\"==\"," + yes + ",[\"kind\"]]", entity) && !passes("[\"<=\"," + yes + "," + yes + "]", entity));
    CHECK(passes("[\"in\"," + no + ",[false,\"x\"]]", entity) && !passes("[\"in\"," + yes + ",[false,\"x\"]]", entity));
    CHECK(passes("[\"==\",[\"==\"," + no + "," + yes + "],[\"==\"," + yes + "," + no + "]]", entity));
}

TEST(a_comparison_of_truths_on_every_level_keeps_its_bits_apart) {
    const size_t levels = Filter::LEVELS_MAX - 1;
    const std::string has = "[\"has\",\"a\"]";
    // Equality of truths is associative, and an even number of equal truths make a true one.
    const std::string right = repeated("[\"==\"," + has + ",", levels) + has + repeated("]", levels);
    const std::string left = repeated("[\"==\",", levels) + has + repeated("," + has + "]", levels);
    for (const std::string& key : {left, right}) {
        CHECK(passes(key, Entity{}) && passes(key, Entity{{"a", "1"}}));
    }
}

TEST(members_are_found_however_many) {
    for (const size_t count : {1u, 2u, 8u, 9u, 1000u}) {
        std::string strings, numbers;
        for (size_t i = 0; i < count; ++i) {
            strings += (i == 0 ? "\"r" : ",\"r") + std::to_string(i * 2) + "\"";
            numbers += (i == 0 ? "" : ",") + std::to_string(i * 2) + ".0";
        }
        const Filter among_strings("[\"in\",[\"get\",\"x\"],[" + strings + "]]"), ids("[\"in\",[\"id\"],[" + strings + "]]");
        const Filter among_numbers("[\"in\",[\"get\",\"x\"],[" + numbers + "]]");
        CHECK(among_strings.bytes() > sizeof(Filter));
        for (size_t i = 0; i < 2 * count + 3; ++i) {
            const bool is_in = i % 2 == 0 && i < 2 * count;
            Entity entity{{"x", "\"r" + std::to_string(i) + "\""}};
            entity.id = "r" + std::to_string(i);
            CHECK(among_strings.passes({entity.id, entity.kind, &entity, Entity::find}) == is_in);
            CHECK(ids.passes({entity.id, entity.kind, &entity, Entity::find}) == is_in);
            CHECK(!among_numbers.passes({entity.id, entity.kind, &entity, Entity::find}));
            entity.properties[0].second = std::to_string(i);
            CHECK(among_numbers.passes({entity.id, entity.kind, &entity, Entity::find}) == is_in);
            CHECK(!among_strings.passes({entity.id, entity.kind, &entity, Entity::find}));
        }
    }
}

TEST(a_property_is_read_again_where_another_was_read_between) {
    const Entity entity{{"a", "1"}, {"b", "2"}};
    const std::string a = "[\"get\",\"a\"]", b = "[\"get\",\"b\"]", is = "[\"==\",", less = "[\"<\",", more = "[\">\",";
    CHECK(passes("[\"all\"," + is + a + ",1.0]," + less + a + ",2.0]," + is + b + ",2.0]," + is + a + ",1.0]]", entity));
    const std::string has = "[\"has\",\"a\"]", lacks = "[\"!\",[\"has\",\"c\"]]";
    CHECK(passes("[\"all\"," + has + "," + less + a + "," + b + "]," + lacks + "," + more + b + "," + a + "]]", entity));
}

TEST(what_is_no_key_is_refused_and_bounds_hold) {
    for (const char* key : {"", "[", "[]", "[\"get\"]", "[\"get\",1]", "[\"==\",1]", "[\"frob\"]", "[\"in\",1,[\"a\"]", "[\"in\",1,[[]]]",
                            "[\"!\"]", "[\"kind\",1]", "true ", "01", "1e999", "\"a", "\"\\", "\"\\\"", "\"\\x\"",
                            "\"\\ud800\"", "\"\n\""}) {
        CHECK(!is_key(key));
    }
    for (size_t levels = Filter::LEVELS_MAX - 1; levels <= Filter::LEVELS_MAX + 1; ++levels) {
        CHECK(is_key(repeated("[\"!\",", levels) + "true" + repeated("]", levels)) == (levels <= Filter::LEVELS_MAX));
    }
    CHECK(!is_key(repeated("[\"!\",", 100000)));
    CHECK(is_key("[\"all\"" + repeated(",1", Filter::NODES_MAX - 1) + "]"));
    CHECK(!is_key("[\"all\"" + repeated(",1", Filter::NODES_MAX) + "]"));
    CHECK(!is_key("\"" + std::string(Filter::KEY_BYTES_MAX, 'x') + "\""));
}
