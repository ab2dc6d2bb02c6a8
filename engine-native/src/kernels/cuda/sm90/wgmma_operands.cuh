// What inline assembly needs to name the accumulators of an instruction: it takes every register by number, in the text and
// in the list of operands. HEARTH_NAMES_n is "%0, ... %n-1"; HEARTH_SUMS_n(constraint, i) the operands d[i] ... d[i + n - 1].
#pragma once

#define HEARTH_NAMES_4 "%0, %1, %2, %3"
#define HEARTH_NAMES_8 HEARTH_NAMES_4 ", %4, %5, %6, %7"
#define HEARTH_NAMES_12 HEARTH_NAMES_8 ", %8, %9, %10, %11"
#define HEARTH_NAMES_16 HEARTH_NAMES_12 ", %12, %13, %14, %15"
#define HEARTH_NAMES_20 HEARTH_NAMES_16 ", %16, %17, %18, %19"
#define HEARTH_NAMES_24 HEARTH_NAMES_20 ", %20, %21, %22, %23"
#define HEARTH_NAMES_28 HEARTH_NAMES_24 ", %24, %25, %26, %27"
#define HEARTH_NAMES_32 HEARTH_NAMES_28 ", %28, %29, %30, %31"
#define HEARTH_NAMES_40 HEARTH_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define HEARTH_NAMES_48 HEARTH_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define HEARTH_NAMES_64 HEARTH_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define HEARTH_NAMES_96 HEARTH_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define HEARTH_NAMES_128 HEARTH_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define HEARTH_SUMS_4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define HEARTH_SUMS_8(c, i) HEARTH_SUMS_4(c, i), HEARTH_SUMS_4(c, i + 4)
#define HEARTH_SUMS_12(c, i) HEARTH_SUMS_8(c, i), HEARTH_SUMS_4(c, i + 8)
#define HEARTH_SUMS_16(c, i) HEARTH_SUMS_8(c, i), HEARTH_SUMS_8(c, i + 8)
#define HEARTH_SUMS_20(c, i) HEARTH_SUMS_16(c, i), HEARTH_SUMS_4(c, i + 16)
#define HEARTH_SUMS_24(c, i) HEARTH_SUMS_16(c, i), HEARTH_SUMS_8(c, i + 16)
#define HEARTH_SUMS_28(c, i) HEARTH_SUMS_24(c, i), HEARTH_SUMS_4(c, i + 24)
#define HEARTH_SUMS_32(c, i) HEARTH_SUMS_16(c, i), HEARTH_SUMS_16(c, i + 16)
#define HEARTH_SUMS_40(c, i) HEARTH_SUMS_32(c, i), HEARTH_SUMS_8(c, i + 32)
#define HEARTH_SUMS_48(c, i) HEARTH_SUMS_40(c, i), HEARTH_SUMS_8(c, i + 40)
#define HEARTH_SUMS_64(c, i) HEARTH_SUMS_48(c, i), HEARTH_SUMS_16(c, i + 48)
#define HEARTH_SUMS_96(c, i) HEARTH_SUMS_64(c, i), HEARTH_SUMS_32(c, i + 64)
#define HEARTH_SUMS_128(c, i) HEARTH_SUMS_96(c, i), HEARTH_SUMS_32(c, i + 96)
