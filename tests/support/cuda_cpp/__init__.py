"""The shipped CUDA C++ on a CPU: a stand-in for CUDA (`cuda_stand_in.h`), its build, a GPU made of host memory, and test cases."""
