// What a test of the native part is made of: TEST(name) { … } and CHECK(condition). `main` is in main.cpp.

#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace realtime::testing {

struct Test {
    const char* name;
    void (*run)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

struct Entered {
    Entered(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

}  // namespace realtime::testing

#define TEST(name)                                                             \
    static void name();                                                        \
    static const realtime::testing::Entered name##_entered(#name, name);       \
    static void name()

// A failed check ends the program: what comes after it would only mislead.
#define CHECK(condition)                                                                             \
    do {                                                                                             \
        if (!(condition)) {                                                                          \
            std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition);       \
            std::abort();                                                                            \
        }                                                                                            \
    } while (false)
