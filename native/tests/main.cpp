// Runs every test of the native part, in the order of the files, and says how many there were.

#include "check.h"

int main() {
    for (const auto& test : realtime::testing::tests()) {
        std::printf("%s\n", test.name);
        std::fflush(stdout);
        test.run();
    }
    std::printf("%zu tests passed\n", realtime::testing::tests().size());
    return 0;
}
