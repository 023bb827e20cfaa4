// A block's product in vector registers, written once for all instructions that add the products
// of neighbouring digits to 32-bit lanes. Included once for each way, which defines
//
//   NAME, TARGET        the function, and its instructions
//   VEC                 vector of uint32_t
//   ROWS, VECS          size of a block: rows, and vectors of columns
//   DIGITS, BITS        digits of a code, least first, and their distance
//   LOAD(p), SPREAD(p)  a vector from memory; four bytes of memory in every lane
//   DOT(sum, digits, weights)
#define LANES (int64_t)(sizeof(VEC) / 4)

TARGET static void NAME(const uint8_t *codes, const uint8_t *weight, int64_t groups, int32_t *out,
                        int64_t out_row, int add) {
    VEC sums[ROWS][DIGITS][VECS];
    memset(sums, 0, sizeof sums);
    for (int64_t group = 0; group < groups; group++) {
        VEC columns[VECS];
#pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) columns[v] = LOAD(weight + v * sizeof(VEC));
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
            for (int digit = 0; digit < DIGITS; digit++) {
                const VEC digits = SPREAD(codes + 4 * (row * DIGITS + digit));
#pragma GCC unroll 8
                for (int v = 0; v < VECS; v++)
                    sums[row][digit][v] = DOT(sums[row][digit][v], digits, columns[v]);
            }
        codes += 4 * ROWS * DIGITS;
        weight += VECS * sizeof(VEC);
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
        for (int v = 0; v < VECS; v++) {
            VEC total = sums[row][DIGITS - 1][v], before;
#pragma GCC unroll 8
            for (int digit = DIGITS - 2; digit >= 0; digit--)
                total = (total << BITS) + sums[row][digit][v];
            int32_t *to = out + row * out_row + v * LANES;
            if (add) {
                memcpy(&before, to, sizeof before);
                total += before;
            }
            memcpy(to, &total, sizeof total);
        }
}

#undef LANES
#undef NAME
#undef TARGET
#undef VEC
#undef ROWS
#undef VECS
#undef DIGITS
#undef BITS
#undef LOAD
#undef SPREAD
#undef DOT
