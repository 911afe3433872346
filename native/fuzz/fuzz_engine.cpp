// libFuzzer: bytes are a game on the engine (see native/tests/engine_game.h); its invariants hold after every step.
//
//     clang++ -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all fuzz_engine.cpp ../*.cpp -o fuzz_engine

#include <cstddef>
#include <cstdint>

#include "../tests/engine_game.h"

namespace {

struct Bytes {
    const uint8_t* data;
    const uint8_t* end;

    uint32_t below(uint32_t bound) {
        if (data == end) {
            return 0;
        }
        uint32_t value = *data++;
        if (bound > 256 && data != end) {
            value = value << 8 | *data++;
        }
        return value % bound;
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes{data, data + size};
    realtime::testing::EngineGame<Bytes> game(bytes);
    while (bytes.data != bytes.end) {
        game.step();
    }
    game.finish();
    return 0;
}
