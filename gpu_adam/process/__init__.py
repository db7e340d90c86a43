"""What a step must survive in its process: signals, threads, forks, and compilers that trace it."""
