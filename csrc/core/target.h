// Which functions of shared headers run where.
#pragma once

#ifdef __CUDACC__
#define PROTOKERN_DEVICE __device__
#define PROTOKERN_BOTH __host__ __device__
#else
#define PROTOKERN_DEVICE
#define PROTOKERN_BOTH
#endif
