// The city as a load program gets it: views, first places, and every move that will be published, in one binary file.
//
// Law: the file is what `bench/peers/crowd.py` writes, byte for byte, in this machine's order:
//   "CITY0001", u64 viewers, u64 entities, u64 moves,
//   f64[viewers][4] west south east north, f64[entities][2] lon lat, f64[moves][2] lon lat, u32[moves] entity.
// Entity e begins with version e + 1; move n makes version entities + 1 + n of its entity. Degrees throughout.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

struct View {
    double west, south, east, north;
    bool shows(double lon, double lat) const { return west <= lon && lon <= east && south <= lat && lat <= north; }
};

struct Place {
    double lon, lat;
};

struct City {
    std::vector<View> views;
    std::vector<Place> first;       // of each entity
    std::vector<Place> moved;       // where each move leads
    std::vector<Place> left;        // where it starts
    std::vector<uint32_t> entities; // which entity moves

    explicit City(const char* path) {
        FILE* file = std::fopen(path, "rb");
        if (!file) throw std::runtime_error(std::string("cannot open ") + path);
        char magic[8];
        uint64_t sizes[3];
        read(file, magic, 1, sizeof magic);
        if (std::memcmp(magic, "CITY0001", sizeof magic) != 0) throw std::runtime_error("not a city");
        read(file, sizes, sizeof(uint64_t), 3);
        views.resize(sizes[0]);
        first.resize(sizes[1]);
        moved.resize(sizes[2]);
        entities.resize(sizes[2]);
        read(file, views.data(), sizeof(View), views.size());
        read(file, first.data(), sizeof(Place), first.size());
        read(file, moved.data(), sizeof(Place), moved.size());
        read(file, entities.data(), sizeof(uint32_t), entities.size());
        std::fclose(file);
        std::vector<Place> now = first;
        left.reserve(moved.size());
        for (size_t move = 0; move < moved.size(); ++move) {
            if (entities[move] >= now.size()) throw std::runtime_error("a move of no entity");
            left.push_back(now[entities[move]]);
            now[entities[move]] = moved[move];
        }
    }

  private:
    static void read(FILE* file, void* into, size_t size, size_t count) {
        if (std::fread(into, size, count, file) != count) throw std::runtime_error("the city is cut short");
    }
};
